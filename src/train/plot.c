/*
 * plot.c - pictures of a run from its log, as SVG: text only, no scripts, below 100 KB however long the run was.
 *
 *     losses     a curve a run, of means of neighbouring steps, and dots of what validation gave; steps are linear,
 *                nats logarithmic, so that the fast fall at the beginning leaves room for the slow end
 *     experts    a band a layer, in it a row an expert: what share of the layer's choices it got in proportion to an
 *                even one. Shares near the even one are not drawn, so that a balanced run is a plain picture
 *
 * Colours are legible on light and on dark paper, which follows what the reader prefers.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/run_internal.h"

enum { WIDTH = 800, HEIGHT = 440, LEFT = 52, RIGHT = 16, TOP = 30, BOTTOM = 44 };
enum { CURVE_POINTS = 280, DOTS = 150 };

/* ---------------------------------------------------------------------------------------------- logs */

/* visit(context, line) for every line of a log; it returns 0, or -1 where memory is exhausted. The last one may be half
 * written, and is left out then. Errors: IO, FORMAT, MEMORY. */
static int each_line(const char *path, int (*visit)(void *context, const json_t *line), void *context,
                     struct sonde_error *e) {
    struct file_map map;
    int rc = file_map_open(path, &map, e);
    if (rc)
        return rc;
    const char *at = (const char *)map.data, *end = at + map.size, *stop;
    for (size_t number = 1; !rc && at < end && (stop = memchr(at, '\n', (size_t)(end - at))); number++) {
        json_t *line = json_loadb(at, (size_t)(stop - at), 0, NULL);
        if (!json_is_integer(json_object_get(line, "step")))
            rc = err_set(e, SONDE_ERROR_FORMAT, "%s: line %zu: not an object with a step", path, number);
        else if (visit(context, line))
            rc = err_memory(e);
        json_decref(line);
        at = stop + 1;
    }
    file_map_close(&map);
    return rc;
}

static double step_of(const json_t *line) {
    return (double)json_integer_value(json_object_get(line, "step"));
}

/* --------------------------------------------------------------------------------------------- points */

struct point {
    double x, y;
};

struct points {
    struct point *list;
    size_t count, room;
};

/* 0 or -1: no memory. */
static int points_add(struct points *p, double x, double y) {
    if (p->count == p->room) {
        size_t room = p->room ? 2 * p->room : 256;
        struct point *list = realloc(p->list, room * sizeof(*list));
        if (!list)
            return -1;
        p->list = list;
        p->room = room;
    }
    p->list[p->count++] = (struct point){x, y};
    return 0;
}

/* At most `most` points, each the mean of as many neighbours; nothing changes where there are no more. */
static void points_thin(struct points *p, size_t most) {
    size_t each = (size_t)ceil_div(p->count, most), count = 0;
    if (p->count <= most)
        return;
    for (size_t i = 0; i < p->count; i += each, count++) {
        size_t n = (size_t)min_u64(each, p->count - i);
        struct point sum = {0, 0};
        for (size_t k = 0; k < n; k++) {
            sum.x += p->list[i + k].x;
            sum.y += p->list[i + k].y;
        }
        p->list[count] = (struct point){sum.x / (double)n, sum.y / (double)n};
    }
    p->count = count;
}

/* At most `most` points, the last among them. */
static void points_pick(struct points *p, size_t most) {
    size_t each = (size_t)ceil_div(p->count, most), count = 0;
    if (p->count <= most)
        return;
    for (size_t i = (p->count - 1) % each; i < p->count; i += each)
        p->list[count++] = p->list[i];
    p->count = count;
}

/* ----------------------------------------------------------------------------------------------- SVG */

static const char *const colours[] = {"#3b82d6", "#e0782a", "#2f9e62", "#9b6dd6",
                                      "#d64550", "#1f9aa8", "#a5713f", "#7f8790"};

static void svg_begin(struct buf *b, int height) {
    buf_printf(
        b,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\">\n"
        "<style>text{font:12px system-ui,sans-serif;fill:#444}.paper{fill:#fff}.grid{stroke:#e2e2e2}"
        ".halo{stroke:#fff}.band{fill:#f0f0f0}.title{font-size:13px;font-weight:600}\n"
        "@media(prefers-color-scheme:dark){text{fill:#bbb}.paper{fill:#15171b}.grid{stroke:#30343b}"
        ".halo{stroke:#15171b}.band{fill:#22252b}}</style>\n<rect class=\"paper\" width=\"%d\" height=\"%d\"/>\n",
        WIDTH, height, WIDTH, height, WIDTH, height);
}

/* Text as XML has it. */
static void svg_escape(struct buf *b, const char *text) {
    for (; *text; text++) {
        if (strchr("&<>\"", *text))
            buf_printf(b, "&#%d;", *text);
        else
            buf_byte(b, (unsigned char)*text < ' ' ? ' ' : *text);
    }
}

/* anchor: "start", "middle" or "end". */
static void svg_text(struct buf *b, double x, double y, const char *anchor, const char *class, const char *text) {
    buf_printf(b, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\"%s>", x, y, anchor, class);
    svg_escape(b, text);
    buf_string(b, "</text>\n");
}

static int svg_end(struct buf *b, const char *path, struct sonde_error *e) {
    buf_string(b, "</svg>\n");
    int rc = b->failed ? err_memory(e) : file_write(path, b->data, b->len, e);
    buf_release(b);
    return rc;
}

/* ----------------------------------------------------------------------------------------------- axes */

struct axes {
    double x0, x1, y0, y1; /* of the data; y is logarithmic */
};

static double place_x(const struct axes *a, double x) {
    return LEFT + (WIDTH - LEFT - RIGHT) * (x - a->x0) / (a->x1 - a->x0);
}

static double place_y(const struct axes *a, double y) {
    return TOP + (HEIGHT - TOP - BOTTOM) * log(a->y1 / y) / log(a->y1 / a->y0);
}

/* The least of 1, 2 and 5 times a power of ten that divides a range into at most `most` parts. */
static double round_step(double range, double most) {
    double power = pow(10, floor(log10(range / most))), parts = range / most / power;
    return power * (parts <= 1 ? 1 : parts <= 2 ? 2 : parts <= 5 ? 5 : 10);
}

static void number_text(double x, char text[32]) {
    if (x >= 10000 && fmod(x, 100) == 0)
        snprintf(text, 32, "%.10gk", x / 1000);
    else
        snprintf(text, 32, "%.10g", x);
}

static void draw_steps(struct buf *b, double x0, double x1, double top, double bottom) {
    const struct axes a = {.x0 = x0, .x1 = x1};
    double step = fmax(round_step(x1 - x0, 9), 1);
    for (double k = ceil(x0 / step); k * step <= x1; k++) {
        char text[32];
        double x = place_x(&a, k * step);
        number_text(k * step, text);
        buf_printf(b, "<path class=\"grid\" d=\"M%.1f %.1fV%.1f\"/>\n", x, top, bottom);
        svg_text(b, x, bottom + 16, "middle", "", text);
    }
    svg_text(b, (WIDTH + LEFT - RIGHT) / 2.0, bottom + 34, "middle", "", "step");
}

static void draw_level(struct buf *b, const struct axes *a, double y) {
    char text[32];
    double at = place_y(a, y);
    number_text(y, text);
    buf_printf(b, "<path class=\"grid\" d=\"M%d %.1fH%d\"/>\n", LEFT, at, WIDTH - RIGHT);
    svg_text(b, LEFT - 6, at + 4, "end", "", text);
}

/* Over a wide range round numbers, the roundest first, as far as there is room; else equal steps. */
static void draw_levels(struct buf *b, const struct axes *a) {
    static const double round[] = {1, 5, 2, 3, 7, 1.5, 4, 2.5, 6, 1.2, 8, 9};
    double taken[24];
    size_t count = 0;
    if (a->y1 < 2 * a->y0) {
        double step = round_step(a->y1 - a->y0, 8);
        for (double k = ceil(a->y0 / step); k * step <= a->y1; k++)
            draw_level(b, a, k * step);
        return;
    }
    for (size_t i = 0; i < COUNT_OF(round); i++)
        for (double power = pow(10, floor(log10(a->y0))); round[i] * power <= a->y1; power *= 10) {
            double y = round[i] * power;
            bool free = y >= a->y0 && count < COUNT_OF(taken);
            for (size_t k = 0; free && k < count; k++)
                free = fabs(place_y(a, y) - place_y(a, taken[k])) >= 26;
            if (free)
                draw_level(b, a, taken[count++] = y);
        }
}

/* --------------------------------------------------------------------------------------------- losses */

struct curve {
    struct points losses, validations;
};

/* Places need a logarithm. */
static double positive(double loss) {
    return fmax(loss, 1e-6);
}

static int take_losses(void *context, const json_t *line) {
    struct curve *c = context;
    const json_t *loss = json_object_get(line, "loss"), *validation = json_object_get(line, "validation");
    if (json_is_number(loss) && points_add(&c->losses, step_of(line), positive(json_number_value(loss))))
        return -1;
    if (json_is_number(validation) &&
        points_add(&c->validations, step_of(line), positive(json_number_value(validation))))
        return -1;
    return 0;
}

static void widen(struct axes *a, const struct points *p) {
    for (size_t i = 0; i < p->count; i++) {
        a->x1 = fmax(a->x1, p->list[i].x);
        a->y0 = fmin(a->y0, p->list[i].y);
        a->y1 = fmax(a->y1, p->list[i].y);
    }
}

static struct axes axes_of(const struct curve *curves, size_t count) {
    struct axes a = {.x0 = 0, .x1 = 1, .y0 = INFINITY, .y1 = 0};
    for (size_t i = 0; i < count; i++) {
        widen(&a, &curves[i].losses);
        widen(&a, &curves[i].validations);
    }
    if (a.y1 == 0)
        return (struct axes){0, 1, 1, 10};
    double margin = pow(a.y1 / a.y0, 0.03) * 1.005;
    a.y0 /= margin;
    a.y1 *= margin;
    return a;
}

static void draw_curve(struct buf *b, const struct axes *a, const struct curve *c, const char *colour) {
    const struct points *line = &c->losses, *dots = &c->validations;
    buf_printf(b, "<path fill=\"none\" stroke=\"%s\" stroke-width=\"1.6\" stroke-linejoin=\"round\" d=\"", colour);
    for (size_t i = 0; i < line->count; i++)
        buf_printf(b, "%s%.1f %.1f", i ? "L" : "M", place_x(a, line->list[i].x), place_y(a, line->list[i].y));
    for (int halo = 1; halo >= 0; halo--) {
        buf_printf(b, "\"/>\n<path %s%s\" stroke-width=\"%d\" stroke-linecap=\"round\" d=\"",
                   halo ? "class=\"" : "stroke=\"", halo ? "halo" : colour, halo ? 8 : 6);
        for (size_t i = 0; i < dots->count; i++)
            buf_printf(b, "M%.1f %.1fh0", place_x(a, dots->list[i].x), place_y(a, dots->list[i].y));
    }
    buf_string(b, "\"/>\n");
}

/* In the upper right corner, which curves that fall leave free. */
static void draw_legend(struct buf *b, const struct plot_run *runs, const struct curve *curves, size_t count) {
    for (size_t i = 0; i < count; i++) {
        const struct points *v = &curves[i].validations;
        const char *colour = colours[i % COUNT_OF(colours)];
        double y = TOP + 18 + 18 * (double)i;
        struct buf text = {0};
        buf_string(&text, runs[i].name);
        if (v->count)
            buf_printf(&text, ", validation %.4g", v->list[v->count - 1].y);
        svg_text(b, WIDTH - RIGHT - 46, y + 4, "end", "", text.failed ? "" : text.data);
        buf_release(&text);
        buf_printf(b, "<path stroke=\"%s\" stroke-width=\"2\" d=\"M%d %.0fh32\"/>\n", colour, WIDTH - RIGHT - 40, y);
        if (v->count)
            buf_printf(b, "<circle fill=\"%s\" cx=\"%d\" cy=\"%.0f\" r=\"3\"/>\n", colour, WIDTH - RIGHT - 24, y);
    }
}

static int draw_losses(const struct plot_run *runs, const struct curve *curves, size_t count, const char *path,
                       struct sonde_error *e) {
    struct buf b = {0};
    const struct axes a = axes_of(curves, count);
    svg_begin(&b, HEIGHT);
    svg_text(&b, LEFT, 18, "start", " class=\"title\"", "Loss, nats a token");
    draw_steps(&b, a.x0, a.x1, TOP, HEIGHT - BOTTOM);
    draw_levels(&b, &a);
    for (size_t i = 0; i < count; i++)
        draw_curve(&b, &a, &curves[i], colours[i % COUNT_OF(colours)]);
    draw_legend(&b, runs, curves, count);
    return svg_end(&b, path, e);
}

int plot_losses(const struct plot_run *runs, size_t count, const char *path, struct sonde_error *e) {
    struct curve *curves = calloc(count + 1, sizeof(*curves));
    int rc = curves ? SONDE_OK : err_memory(e);
    for (size_t i = 0; !rc && i < count; i++) {
        rc = each_line(runs[i].log, take_losses, &curves[i], e);
        points_thin(&curves[i].losses, CURVE_POINTS);
        points_pick(&curves[i].validations, DOTS);
    }
    if (!rc)
        rc = draw_losses(runs, curves, count, path, e);
    for (size_t i = 0; curves && i < count; i++) {
        free(curves[i].losses.list);
        free(curves[i].validations.list);
    }
    free(curves);
    return rc;
}

/* -------------------------------------------------------------------------------------------- experts */

enum { CELLS = 12000, COLUMNS = 120, GAP = 8, LEVELS = 6 };

/* Counts of choices in a run, added up by stretches of steps. */
struct loads {
    size_t layers, experts; /* of the first line that has loads; 0: none yet */
    size_t columns;
    double first, last;  /* steps that have loads */
    double *sums;        /* [columns, layers, experts] */
    signed char *levels; /* the same shape, see set_levels() */
};

/* Layers and experts of a line's loads; false if it has none. */
static bool loads_shape(const json_t *line, size_t *layers, size_t *experts) {
    const json_t *loads = json_object_get(line, "loads");
    *layers = json_array_size(loads);
    *experts = json_array_size(json_array_get(loads, 0));
    return *layers && *experts;
}

static int measure_loads(void *context, const json_t *line) {
    struct loads *l = context;
    size_t layers, experts;
    if (!loads_shape(line, &layers, &experts))
        return 0;
    if (!l->layers)
        *l = (struct loads){.layers = layers, .experts = experts, .first = step_of(line)};
    l->last = fmax(l->last, step_of(line));
    l->columns++;
    return 0;
}

/* Lines whose loads have another shape are left out. */
static int add_loads(void *context, const json_t *line) {
    struct loads *l = context;
    size_t layers, experts;
    if (!loads_shape(line, &layers, &experts) || layers != l->layers || experts != l->experts)
        return 0;
    double part = (step_of(line) - l->first) / (l->last - l->first + 1);
    size_t column = (size_t)(fmax(part, 0) * (double)l->columns);
    double *sums = l->sums + column * layers * experts;
    for (size_t i = 0; i < layers; i++)
        for (size_t k = 0; k < experts; k++) {
            const json_t *load = json_array_get(json_array_get(json_object_get(line, "loads"), i), k);
            sums[i * experts + k] += fmax(json_number_value(load), 0);
        }
    return 0;
}

/* How far a share is from even, 1: -1 for not far, else 0 to 5 for less than 1/4, 1/2, 3/4, more than 4/3, 2, 4. */
static signed char level_of(double share) {
    static const double less[] = {0.25, 0.5, 0.75}, more[] = {4, 2, 4 / 3.0};
    for (int i = 0; i < 3; i++) {
        if (share < less[i])
            return (signed char)i;
        if (share > more[i])
            return (signed char)(5 - i);
    }
    return -1;
}

static void set_levels(struct loads *l) {
    for (size_t i = 0; i < l->columns * l->layers; i++) {
        const double *x = l->sums + i * l->experts;
        double all = 0;
        for (size_t k = 0; k < l->experts; k++)
            all += x[k];
        for (size_t k = 0; k < l->experts; k++)
            l->levels[i * l->experts + k] = level_of(all > 0 ? x[k] * (double)l->experts / all : 1);
    }
}

static const char *const level_style[LEVELS] = {
    "stroke=\"#2f74d0\"",
    "stroke=\"#2f74d0\" stroke-opacity=\".6\"",
    "stroke=\"#2f74d0\" stroke-opacity=\".3\"",
    "stroke=\"#e06a1c\" stroke-opacity=\".3\"",
    "stroke=\"#e06a1c\" stroke-opacity=\".6\"",
    "stroke=\"#e06a1c\"",
};

/* Cells of one level in a layer's band, in units of columns and rows; neighbours in a row as one stroke. */
static void draw_cells(struct buf *b, const struct loads *l, size_t layer, int level) {
    size_t stride = l->layers * l->experts;
    const signed char *levels = l->levels + layer * l->experts;
    buf_printf(b, "<path %s d=\"", level_style[level]);
    for (size_t expert = 0; expert < l->experts; expert++)
        for (size_t i = 0, n; i < l->columns; i += n + 1) {
            for (n = 0; i + n < l->columns && levels[(i + n) * stride + expert] == level;)
                n++;
            if (n)
                buf_printf(b, "M%zu %zuh%zu", i, expert, n);
        }
    buf_string(b, "\"/>\n");
}

static void draw_band(struct buf *b, const struct loads *l, size_t layer, double top, double row) {
    char name[24];
    double height = row * (double)l->experts, width = WIDTH - LEFT - RIGHT;
    snprintf(name, sizeof(name), "%zu", layer);
    svg_text(b, LEFT - 8, top + height / 2 + 4, "end", "", name);
    buf_printf(b, "<rect class=\"band\" x=\"%d\" y=\"%.2f\" width=\"%.0f\" height=\"%.2f\"/>\n", LEFT, top, width,
               height);
    buf_printf(b, "<g shape-rendering=\"crispEdges\" transform=\"translate(%d %.3f) scale(%.4f %.4f)\">\n", LEFT,
               top + row / 2, width / (double)l->columns, row);
    for (int level = 0; level < LEVELS; level++)
        draw_cells(b, l, layer, level);
    buf_string(b, "</g>\n");
}

static void draw_key(struct buf *b) {
    static const char *const names[LEVELS] = {"< 1/4", "< 1/2", "< 3/4", "> 4/3", "> 2", "> 4"};
    for (int i = 0; i < LEVELS; i++) {
        double x = WIDTH - RIGHT - 58 * (LEVELS - i);
        buf_printf(b, "<path %s stroke-width=\"10\" d=\"M%.0f 14h14\"/>\n", level_style[i], x);
        svg_text(b, x + 18, 18, "start", "", names[i]);
    }
}

static int draw_loads(const struct loads *l, const char *path, struct sonde_error *e) {
    struct buf b = {0};
    double row = l->experts ? fmin(4, 72 / (double)l->experts) : 0, band = row * (double)l->experts + GAP;
    double bottom = TOP + band * (double)l->layers;
    svg_begin(&b, (int)bottom + BOTTOM);
    svg_text(&b, LEFT, 18, "start", " class=\"title\"",
             l->layers ? "Shares of experts against an even one, by layer" : "No loads of experts in this log");
    if (l->layers) {
        draw_key(&b);
        draw_steps(&b, l->first, l->last + 1, bottom, bottom);
    }
    for (size_t i = 0; i < l->layers; i++)
        draw_band(&b, l, i, TOP + band * (double)i, row);
    return svg_end(&b, path, e);
}

int plot_experts(const char *log, const char *path, struct sonde_error *e) {
    struct loads l = {0};
    int rc = each_line(log, measure_loads, &l, e);
    if (rc)
        return rc;
    size_t cells = l.layers * l.experts;
    if (cells) {
        l.columns = (size_t)min_u64(min_u64(l.columns, COLUMNS), max_u64(CELLS / cells, 1));
        l.sums = calloc(l.columns * cells, sizeof(*l.sums));
        l.levels = malloc(l.columns * cells);
        rc = l.sums && l.levels ? each_line(log, add_loads, &l, e) : err_memory(e);
    }
    if (!rc) {
        set_levels(&l);
        rc = draw_loads(&l, path, e);
    }
    free(l.sums);
    free(l.levels);
    return rc;
}
