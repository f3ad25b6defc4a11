/* The pixels of a part of a JPEG, by libjpeg-turbo: what lies above, beside and below the part costs
 * no transform and no conversion of colours, and what lies below it is not read at all.
 *
 * clf/data/jpeg.py calls it through ctypes, which holds no lock of Python's meanwhile. `make env` or
 * `pip install` compile it where there are a C compiler and the header of libjpeg-turbo:
 *
 *     cc -O2 -shared -fPIC -o clf/data/jpeg_region.so clf/data/jpeg_region.c -ljpeg
 */
#include <setjmp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#if JPEG_LIB_VERSION >= 70
#define SIDE(component) (component)->DCT_h_scaled_size /* pixels of a block at the scale */
#else
#define SIDE(component) (component)->DCT_scaled_size
#endif

#include "jpeg_huffman.h"

struct errors {
    struct jpeg_error_mgr manager; /* first, so that libjpeg's pointer to it is one to this */
    jmp_buf refused;
};

static void refuse(j_common_ptr info)
{
    longjmp(((struct errors *)info->err)->refused, 1);
}

/* A warning, such as that data are missing, is as good as an error: the pixels would be invented. */
static void warn(j_common_ptr info, int level)
{
    if (level < 0)
        refuse(info);
}

/* Whether the file goes on to its end; a truncated one is refused though the part came before. */
static int has_end(j_decompress_ptr info)
{
    const JOCTET *from = info->src->next_input_byte, *byte = from + info->src->bytes_in_buffer;

    if (jpeg_input_complete(info))
        return 1;
    while (byte - 2 >= from)
        if (*--byte == JPEG_EOI && byte[-1] == 0xFF)
            return 1;
    return 0;
}

#define ROWS 2 /* libjpeg makes two at once of colours at half the resolution */

static _Thread_local struct decoder decoder; /* keeps its tables, which many images share */

/* Fill `pixels` [height, width, 3] with RGB of the box of the image that is decoded at so many
 * eighths of its size: 1, 2, 4 or 8. The box is in pixels at that scale.
 *
 * Returns 0; or 1 where libjpeg refuses or doubts the data, or the box is not within the image, or
 * there is no memory. */
int clf_jpeg_region(const unsigned char *data, size_t size, int eighths, int top, int left,
                    int height, int width, unsigned char *pixels)
{
    struct jpeg_decompress_struct info;
    struct errors errors;
    JDIMENSION first, columns, mcu;
    JSAMPARRAY rows;
    int done, more, line, taken_over;

    memset(&info, 0, sizeof info); /* an error in the first call destroys what was not created */
    info.err = jpeg_std_error(&errors.manager);
    errors.manager.error_exit = refuse;
    errors.manager.emit_message = warn;
    decoder.refuse = refuse;
    if (setjmp(errors.refused)) {
        jpeg_destroy_decompress(&info);
        return 1;
    }
    jpeg_create_decompress(&info);
    jpeg_mem_src(&info, data, size);
    jpeg_read_header(&info, TRUE);
    info.scale_num = eighths;
    info.scale_denom = 8;
    info.out_color_space = JCS_RGB;
    info.dct_method = JDCT_IFAST;
    info.do_fancy_upsampling = FALSE;
    jpeg_start_decompress(&info);
    if (top < 0 || left < 0 || height < 1 || width < 1 || info.output_components != 3 ||
        (long)top + height > (long)info.output_height || (long)left + width > (long)info.output_width)
        refuse((j_common_ptr)&info);
    first = left;
    columns = width;
    if (columns < info.output_width)
        jpeg_crop_scanline(&info, &first, &columns); /* to whole MCUs */
    mcu = (unsigned)eighths * (info.comps_in_scan > 1 ? info.max_h_samp_factor : 1);
    taken_over = take_over(&info, &decoder, first / mcu, (first + columns - 1) / mcu);
    if (top > 0 && jpeg_skip_scanlines(&info, top) != (JDIMENSION)top)
        refuse((j_common_ptr)&info);
    rows = (*info.mem->alloc_sarray)((j_common_ptr)&info, JPOOL_IMAGE, info.output_width * 3, ROWS);
    for (done = 0; done < height; done += more) {
        more = height - done < ROWS ? height - done : ROWS;
        more = jpeg_read_scanlines(&info, rows, more);
        if (more == 0)
            refuse((j_common_ptr)&info);
        for (line = 0; line < more; line++)
            memcpy(pixels + (size_t)3 * width * (done + line), rows[line] + 3 * (left - first),
                   (size_t)3 * width);
    }
    if (info.output_scanline == info.output_height && !taken_over)
        jpeg_finish_decompress(&info); /* warns of data that are too many */
    else if (info.output_scanline == info.output_height ? !is_at(&decoder, JPEG_EOI)
                                                        : !has_end(&info))
        refuse((j_common_ptr)&info);
    jpeg_destroy_decompress(&info);
    return 0;
}
