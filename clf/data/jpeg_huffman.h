/* Decodes the entropy-coded data of a baseline JPEG in libjpeg's place. One look into a table gives a
 * coefficient with the zeros before it, for which libjpeg takes several steps; and where nobody wants
 * the coefficients, one look passes over as many of them as its bits hold.
 *
 * The code is that of ITU T.81, F.2.2. Data that are not as it says there are refused, so that the
 * caller can let another decoder have a look. */
#include <stdint.h>
#include <string.h>

#include <jpeglib.h>

#define LOOK 10        /* bits that index a table; hardly any code is longer */
#define TO_THE_END 128 /* as the zeros before a coefficient: the rest of the block is zeros */
#define BROKEN 255     /* the same: no code begins with these bits */
#define BEYOND 256     /* bytes of 0 after the data: more than a block can take */

/* libjpeg's own, which it declares in no public header; unchanged since version 6. */
struct jpeg_entropy_decoder {
    void (*start_pass)(j_decompress_ptr info);
    boolean (*decode_mcu)(j_decompress_ptr info, JBLOCKROW *blocks);
};

/* What a code says: zeros before a coefficient << 16 | bits without its number << 8 | bits with it,
 * which come last because a shift takes them from there as they are. */
typedef uint32_t meaning;

struct table {
    UINT8 lengths[17], symbols[256]; /* what it was made from */
    int short_numbers;               /* at most 10 bits after a code, as T.81 has it for 8-bit AC */
    uint32_t limit[18];              /* the first 16 bits of data, after the last code of a length */
    int offset[17];                  /* from a code of a length to its place in `symbols` */
    meaning by_bits[1 << LOOK];      /* 0: the code is longer */
};

struct decoder {
    const JOCTET *source, *source_end; /* of the file: what is not in `data` yet */
    JOCTET *data;                      /* up to a marker, without the bytes that only escape FF */
    const JOCTET *next, *end;          /* in `data`: what is not in `bits` yet */
    uint64_t bits;                     /* the next one is the highest */
    int count;                         /* of them */
    int dc[MAX_COMPS_IN_SCAN];         /* the last of each component */
    unsigned column, first, last;      /* of the next MCU; of those whose pixels are wanted */
    unsigned until_restart, restarts;
    void (*refuse)(j_common_ptr info);
    struct table dc_tables[NUM_HUFF_TBLS], ac_tables[NUM_HUFF_TBLS];
};

static const unsigned char natural[64] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
    41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
    30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
};

static inline meaning meaning_of(int symbol, int length, int is_ac)
{
    unsigned size = symbol & 15, zeros = is_ac ? symbol >> 4 : 0;

    if (is_ac && size == 0 && zeros != 15)
        zeros = TO_THE_END;
    return zeros << 16 | length << 8 | (length + size);
}

/* libjpeg has checked that the lengths make a code. */
static void make_table(struct table *table, const JHUFF_TBL *code, int is_ac)
{
    unsigned next = 0, place = 0, fill;
    int length, left;

    if (!memcmp(table->lengths + 1, code->bits + 1, 16) &&
        !memcmp(table->symbols, code->huffval, sizeof table->symbols))
        return; /* that of the last image */
    memcpy(table->lengths, code->bits, sizeof table->lengths);
    memcpy(table->symbols, code->huffval, sizeof table->symbols);
    memset(table->by_bits, 0, sizeof table->by_bits);
    table->short_numbers = 1;
    for (length = 1; length <= 16; length++, next <<= 1) {
        table->offset[length] = (int)place - (int)next;
        for (left = code->bits[length]; left > 0; left--, next++, place++) {
            table->short_numbers &= (table->symbols[place] & 15) <= 10;
            for (fill = 0; length <= LOOK && fill < 1u << (LOOK - length); fill++)
                table->by_bits[(next << (LOOK - length)) + fill] =
                    meaning_of(table->symbols[place], length, is_ac);
        }
        table->limit[length] = next << (16 - length);
    }
    table->limit[17] = UINT32_MAX;
}

static meaning long_code(const struct table *table, uint64_t bits, int is_ac)
{
    uint32_t ahead = (uint32_t)(bits >> 48);
    int length = LOOK + 1;

    while (ahead >= table->limit[length])
        length++;
    if (length > 16)
        return BROKEN << 16;
    return meaning_of(table->symbols[(int)(ahead >> (16 - length)) + table->offset[length]], length,
                      is_ac);
}

/* Take the data up to the next marker from the file. */
static void next_segment(struct decoder *decoder)
{
    JOCTET *to = decoder->data;
    const JOCTET *from = decoder->source, *found;

    for (;;) {
        found = memchr(from, 0xFF, (size_t)(decoder->source_end - from));
        if (!found)
            found = decoder->source_end;
        memcpy(to, from, (size_t)(found - from));
        to += found - from;
        from = found;
        if (decoder->source_end - from < 2 || from[1] != 0)
            break;
        *to++ = 0xFF; /* stored as FF 00 */
        from += 2;
    }
    decoder->source = from;
    memset(to, 0, BEYOND);
    decoder->next = decoder->data;
    decoder->end = to;
    decoder->bits = 0;
    decoder->count = 0;
    memset(decoder->dc, 0, sizeof decoder->dc);
}

/* Whether all data up to this marker have been used. */
static int is_at(const struct decoder *decoder, int marker)
{
    return decoder->next - decoder->count / 8 >= decoder->end &&
           decoder->source_end - decoder->source >= 2 && decoder->source[1] == marker;
}

static int restart(struct decoder *decoder)
{
    if (!is_at(decoder, (int)(JPEG_RST0 + decoder->restarts++ % 8)))
        return 0;
    decoder->source += 2;
    next_segment(decoder);
    return 1;
}

#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define HIGHEST_FIRST(eight) (eight)
#else
#define HIGHEST_FIRST(eight) __builtin_bswap64(eight)
#endif

/* Without a branch: more than 55 bits, which two codes with their numbers cannot use up. */
#define REFILL                                                                                     \
    do {                                                                                           \
        uint64_t eight;                                                                            \
        memcpy(&eight, next, 8);                                                                   \
        bits |= HIGHEST_FIRST(eight) >> count;                                                     \
        next += (63 - count) >> 3;                                                                 \
        count |= 56;                                                                               \
    } while (0)

#define LOOK_UP(table, is_ac)                                                                      \
    do {                                                                                           \
        says = (table)->by_bits[bits >> (64 - LOOK)];                                              \
        if (__builtin_expect(says == 0, 0))                                                        \
            says = long_code(table, bits, is_ac);                                                  \
    } while (0)

#define DROP                                                                                       \
    do {                                                                                           \
        bits <<= says & 63;                                                                        \
        count -= says & 63;                                                                        \
    } while (0)

#define COEFFICIENT                                                                                \
    LOOK_UP(ac_table, 1);                                                                          \
    place += says >> 16;                                                                           \
    if (place > 63) {                                                                              \
        DROP;                                                                                      \
        goto done;                                                                                 \
    }                                                                                              \
    if (with_ac)                                                                                   \
        block[natural[place]] = (JCOEF)number_after(bits, says);                                   \
    DROP;                                                                                          \
    if (++place == 64)                                                                             \
        goto done;

/* The number that follows a code. */
static inline int number_after(uint64_t bits, meaning says)
{
    int length = says >> 8 & 255, size = (int)(says & 63) - length;
    uint64_t rest = bits << length;
    int negative = (int)((int64_t)~rest >> 63); /* all bits set where it begins with 0 */

    return (int)(rest >> 1 >> (63 - size)) + (negative & (1 - (1 << size)));
}

/* Read a block, whose coefficients were 0, or pass over it. Returns whether the data are in order. */
static inline __attribute__((always_inline)) int
code_block(struct decoder *decoder, const struct table *dc_table, const struct table *ac_table,
           int *dc, JCOEF *block, int with_ac)
{
    uint64_t bits = decoder->bits;
    const JOCTET *next = decoder->next;
    int count = decoder->count, place = 1;
    meaning says;

    REFILL;
    LOOK_UP(dc_table, 0);
    if (says >> 16)
        return 0;
    *dc += number_after(bits, says);
    if (block)
        block[0] = (JCOEF)*dc;
    DROP;
    for (;;) {
        REFILL;
        COEFFICIENT
        COEFFICIENT
    }
done:
    decoder->bits = bits;
    decoder->next = next;
    decoder->count = count;
    return *dc == (JCOEF)*dc && next - count / 8 <= decoder->end &&
           (place == 64 || (place > TO_THE_END && place < TO_THE_END + 64));
}

static int read_block(struct decoder *decoder, const struct table *dc_table,
                      const struct table *ac_table, int *dc, JCOEF *block)
{
    return code_block(decoder, dc_table, ac_table, dc, block, 1);
}

static int skip_block(struct decoder *decoder, const struct table *dc_table,
                      const struct table *ac_table, int *dc, JCOEF *block)
{
    return code_block(decoder, dc_table, ac_table, dc, block, 0);
}

/* What libjpeg calls for each MCU; `blocks` is NULL for those of rows that it passes over. */
static boolean decode_mcu(j_decompress_ptr info, JBLOCKROW *blocks)
{
    struct decoder *decoder = info->client_data;
    int wanted = blocks && decoder->column >= decoder->first && decoder->column <= decoder->last;
    int number, which, in_order = 1;
    const jpeg_component_info *component;

    if (info->restart_interval && decoder->until_restart-- == 0) {
        in_order = restart(decoder);
        decoder->until_restart = info->restart_interval - 1;
    }
    if (++decoder->column == info->MCUs_per_row)
        decoder->column = 0;
    for (number = 0; in_order && number < info->blocks_in_MCU; number++) {
        which = info->MCU_membership[number];
        component = info->cur_comp_info[which];
        in_order = (wanted && SIDE(component) > 1 ? read_block : skip_block)(
            decoder, &decoder->dc_tables[component->dc_tbl_no],
            &decoder->ac_tables[component->ac_tbl_no], &decoder->dc[which],
            wanted ? *blocks[number] : NULL);
    }
    if (!in_order)
        decoder->refuse((j_common_ptr)info);
    return TRUE;
}

/* Let `decoder` read the scan that `info` has started; returns whether it can. `first` and `last` are
 * the columns of MCUs whose pixels are wanted. */
static int take_over(j_decompress_ptr info, struct decoder *decoder, unsigned first, unsigned last)
{
    int which;
    const jpeg_component_info *component;

    if (info->progressive_mode || info->arith_code || jpeg_has_multiple_scans(info))
        return 0;
    for (which = 0; which < info->comps_in_scan; which++) {
        component = info->cur_comp_info[which];
        if (!info->dc_huff_tbl_ptrs[component->dc_tbl_no] ||
            !info->ac_huff_tbl_ptrs[component->ac_tbl_no])
            return 0;
        make_table(&decoder->dc_tables[component->dc_tbl_no],
                   info->dc_huff_tbl_ptrs[component->dc_tbl_no], 0);
        make_table(&decoder->ac_tables[component->ac_tbl_no],
                   info->ac_huff_tbl_ptrs[component->ac_tbl_no], 1);
        if (!decoder->ac_tables[component->ac_tbl_no].short_numbers)
            return 0;
    }
    decoder->source = info->src->next_input_byte;
    decoder->source_end = decoder->source + info->src->bytes_in_buffer;
    decoder->data = (*info->mem->alloc_large)((j_common_ptr)info, JPOOL_IMAGE,
                                              info->src->bytes_in_buffer + BEYOND);
    next_segment(decoder);
    decoder->column = 0;
    decoder->first = first;
    decoder->last = last;
    decoder->until_restart = info->restart_interval;
    decoder->restarts = 0;
    info->client_data = decoder;
    info->entropy->decode_mcu = decode_mcu;
    return 1;
}
