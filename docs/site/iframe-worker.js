/* A Worker for pages that are opened from the disk, where browsers start none: the script runs in a hidden frame.
 * The search of Material for MkDocs needs it, and what it brings itself would be fetched from the network. */
if (location.protocol === "file:")
  window.Worker = class extends EventTarget {
    constructor(address) {
      super()
      this.onmessage = this.onerror = null
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.appendChild(this.frame)
      window.addEventListener("message", this.receive)
      /* In the frame, importScripts must load scripts one after the other and answer with a promise when they are there. */
      const inside = this.frame.contentDocument
      inside.open()
      inside.write(`<script>
        postMessage = data => parent.dispatchEvent(new MessageEvent("message", { data, source: window }))
        importScripts = (...addresses) => addresses.reduce((before, address) => before.then(() => new Promise((done, failed) => {
          const script = document.createElement("script")
          script.src = new URL(address, ${JSON.stringify(String(new URL(address, location)))})
          script.onload = done
          script.onerror = failed
          document.body.appendChild(script)
        })), Promise.resolve())
      </script><script src="${address}"></script>`)
      inside.close()
    }
    receive = event => {
      if (event.source !== this.frame.contentWindow) return
      const message = new MessageEvent("message", { data: event.data })
      this.dispatchEvent(message)
      if (this.onmessage) this.onmessage(message)
    }
    postMessage(data) {
      const deliver = () => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }))
      if (this.frame.contentDocument.readyState === "complete") deliver()
      else this.frame.contentWindow.addEventListener("load", deliver)
    }
    terminate() {
      window.removeEventListener("message", this.receive)
      this.frame.remove()
    }
  }
