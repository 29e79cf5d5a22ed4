/*
 * plan.c - how large an image is drawn, and which tokens stand for it.
 *
 * The numbers are the release's to the last pixel, so doubles are taken through the same operations in the same order;
 * integers of this size are exact in them. An image is drawn at its own size, rounded up to whole patches, unless it is
 * smaller than min_pixels or has more tokens than allowed: then on the largest grid of its shape that fits, or, if it
 * is too thin for that, on a single line of tokens.
 */
#include <math.h>

#include "image/image.h"

/* Positions at which the blocks of the compressor begin: PAIRS brings the start token right before one. */
enum { BLOCK = 4 };

void image_rules_default(enum image_layout layout, struct image_rules *rules) {
    static const struct image_rules released[] = {
        [IMAGE_ROWS] = {IMAGE_ROWS, 14, 3, 1024, 295936, 0},
        [IMAGE_PAIRS] = {IMAGE_PAIRS, 14, 3, 384, 147456, 8},
    };
    *rules = released[layout];
}

static int check_field(const char *name, uint64_t value, uint64_t least, uint64_t most, struct sonde_error *e) {
    if (value >= least && value <= most)
        return 0;
    return err_set(e, SONDE_ERROR_ARGUMENT, "images: field %s: %llu, expected an integer from %llu to %llu", name,
                   (unsigned long long)value, (unsigned long long)least, (unsigned long long)most);
}

static int check(uint32_t width, uint32_t height, const struct image_rules *r, struct sonde_error *e) {
    int code = check_field("patch_size", r->patch_size, 1, 64, e);
    code = code ? code : check_field("downsample_ratio", r->downsample_ratio, 1, 8, e);
    code = code ? code : check_field("max_tokens", r->max_tokens, 16, 16384, e);
    code = code ? code : check_field("min_pixels", r->min_pixels, 0, 1 << 24, e);
    if (!code && !(r->max_wh_ratio == 0 || (r->max_wh_ratio >= 1 && r->max_wh_ratio <= 65536)))
        code = err_set(e, SONDE_ERROR_ARGUMENT,
                       "images: field max_wh_ratio: %g, expected 0 or a number from 1 to 65536", r->max_wh_ratio);
    if (!code && (!width || !height))
        code = err_set(e, SONDE_ERROR_ARGUMENT, "images: %u x %u pixels, expected at least 1 x 1", width, height);
    return code;
}

/* Rows of tokens that stand together. */
static uint32_t step_of(const struct image_rules *r) {
    return r->layout == IMAGE_PAIRS ? 2 : 1;
}

/* Tokens from start to end. PAIRS: a row is added to an odd one, and two tokens where that makes whole blocks. */
static uint64_t count_tokens(uint64_t grid_rows, uint64_t grid_cols, const struct image_rules *r) {
    uint64_t step = step_of(r), groups = ceil_div(grid_rows, step), row = grid_cols + 1;
    uint64_t tokens = groups * step * row + 2;
    return tokens + (step == 2 ? groups * row % 2 * 2 : 0);
}

static uint64_t tokens_of(double rows, double cols, const struct image_rules *r) {
    return count_tokens(ceil_div((uint64_t)rows, r->downsample_ratio), ceil_div((uint64_t)cols, r->downsample_ratio),
                        r);
}

/* The largest grid of the shape width : height that has at most `budget` tokens, but for what PAIRS adds. */
static void fit(double width, double height, double budget, const struct image_rules *r, double *rows, double *cols) {
    double merge = r->downsample_ratio, step = step_of(r), patch = r->patch_size, cell = patch * merge;
    double ratio = height / width, wide = sqrt((budget - 2) / ratio + 0.25) - 0.5, high = wide * ratio;
    if (wide < 1) {
        *rows = floor(floor((budget - 2) / 2) / step) * step * merge;
        *cols = merge;
    } else if (high < step) {
        *rows = step * merge;
        *cols = (floor((budget - 2) / step) - 1) * merge;
    } else {
        double by_width = floor(wide) * cell / width, by_height = floor(floor(high) / step) * step * cell / height;
        double zoom = fmin(by_width, by_height);
        *rows = floor(height * zoom / patch);
        *cols = floor(width * zoom / patch);
    }
    /* where few patches make a token, rounding down may leave none */
    *rows = fmax(*rows, 1);
    *cols = fmax(*cols, 1);
}

static void make_grid(double width, double height, const struct image_rules *r, struct image_plan *plan) {
    if (r->max_wh_ratio > 0 && width > height * r->max_wh_ratio)
        width = height * r->max_wh_ratio;
    if (width * height < r->min_pixels) {
        double grow = pow(r->min_pixels / (width * height), 0.5);
        width = trunc(width * grow);
        height = trunc(height * grow);
    }
    double rows = ceil(height / r->patch_size), cols = ceil(width / r->patch_size);
    uint64_t limit = r->max_tokens - (r->layout == IMAGE_PAIRS ? BLOCK - 1 : 0);
    for (uint64_t budget = limit; tokens_of(rows, cols, r) > limit; budget--)
        fit(width, height, (double)budget, r, &rows, &cols);
    plan->rows = (uint32_t)rows;
    plan->cols = (uint32_t)cols;
}

/* Centred, as large as its shape allows; squeezed images fill the canvas. rint() rounds halves to even, as Python. */
static void place(uint32_t width, uint32_t height, const struct image_rules *r, struct image_plan *plan) {
    uint32_t canvas_width = plan->cols * r->patch_size, canvas_height = plan->rows * r->patch_size;
    double shape = (double)width / height, canvas_shape = (double)canvas_width / canvas_height;
    bool squeezed = r->max_wh_ratio > 0 && width >= r->max_wh_ratio * height;
    plan->width = canvas_width;
    plan->height = canvas_height;
    if (!squeezed && shape > canvas_shape)
        plan->height = (uint32_t)fmax(1, rint((double)height / width * canvas_width));
    else if (!squeezed && shape < canvas_shape)
        plan->width = (uint32_t)fmax(1, rint((double)width / height * canvas_height));
    plan->x = (uint32_t)rint((canvas_width - plan->width) * 0.5);
    plan->y = (uint32_t)rint((canvas_height - plan->height) * 0.5);
}

int image_plan(uint32_t width, uint32_t height, const struct image_rules *rules, struct image_plan *plan,
               struct sonde_error *e) {
    int code = check(width, height, rules, e);
    if (code)
        return code;
    make_grid(width, height, rules, plan);
    plan->grid_rows = (uint32_t)ceil_div(plan->rows, rules->downsample_ratio);
    plan->grid_cols = (uint32_t)ceil_div(plan->cols, rules->downsample_ratio);
    plan->tokens = (uint32_t)count_tokens(plan->grid_rows, plan->grid_cols, rules);
    place(width, height, rules, plan);
    return 0;
}

/* Padding before the start token. */
static uint32_t lead_of(const struct image_rules *r, uint64_t start) {
    return r->layout == IMAGE_PAIRS ? BLOCK - 1 - (uint32_t)(start % BLOCK) : 0;
}

uint32_t image_span_tokens(const struct image_plan *plan, const struct image_rules *rules, uint64_t start) {
    return lead_of(rules, start) + plan->tokens;
}

void image_span(const struct image_plan *plan, const struct image_rules *rules, uint64_t start,
                enum image_token *tokens, uint32_t *order) {
    uint32_t lead = lead_of(rules, start), step = step_of(rules), at = lead + 1, patches = 0;
    for (uint32_t i = 0; tokens && i < lead + plan->tokens; i++)
        tokens[i] = IMAGE_PADDING;
    for (uint32_t first = 0; first < plan->grid_rows; first += step) {
        for (uint32_t i = 0; i < step * (plan->grid_cols + 1); i++, at++) {
            uint32_t row = first + i % step, col = i / step;
            bool patch = row < plan->grid_rows && col < plan->grid_cols;
            if (tokens && row < plan->grid_rows)
                tokens[at] = patch ? IMAGE_PATCH : IMAGE_NEWLINE;
            if (order && patch)
                order[patches++] = row * plan->grid_cols + col;
        }
    }
    if (tokens) {
        tokens[lead] = IMAGE_START;
        tokens[lead + plan->tokens - 1] = IMAGE_END;
    }
}
