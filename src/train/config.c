/*
 * config.c - the config of a run from its JSON and back.
 *
 * Three tables say which fields there are: those of the config, those of an entry of "data" and of "validation". Each
 * line has name, kind, bounds, default and place in a struct, and serves reading, writing and the refusal of names that
 * are not there; so these cannot drift apart. A name with a dot is a field of an object in the object.
 *
 * Defaults that depend on other fields become numbers while reading: what is written out does not depend on a rule
 * that a later version may have otherwise.
 *
 * A reader remembers the first failure, and reads nothing from then on. A field that is null counts as missing, but
 * where null means something (FIELD_TEXT_OR_NONE).
 */
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train/config_internal.h"

#define SEPARATOR "<|endoftext|>"
#define WHOLE     0x1p53 /* integers up to this are themselves as doubles */

enum field_kind {
    FIELD_TEXT,         /* char *, owned; NULL where missing */
    FIELD_TEXT_OR_NONE, /* the same; null is a value, and written */
    FIELD_COUNT,        /* uint64_t */
    FIELD_COUNT32,      /* uint32_t */
    FIELD_NUMBER,       /* double */
    FIELD_CHOICE,       /* an enum: place in `choices` */
    FIELD_BOOL,         /* bool */
};

/* What stands for a number that is missing, besides a number. KEPT: what the struct holds already. */
#define NEEDED -INFINITY
#define KEPT   NAN

enum { ABOVE = 1, BELOW = 2 }; /* `least`, `most` are not in the bounds */

struct field {
    const char *name;
    enum field_kind kind;
    size_t offset;
    double least, most, otherwise;
    unsigned open;              /* ABOVE, BELOW */
    const char *const *choices; /* ended by NULL */
    /* Of a number: at most so many tenths of the number `of`, which stands before it, in place of `otherwise`. */
    unsigned tenths;
    size_t of;
};

#define AT(member) offsetof(struct train_config, member)
#define FIELD(label, type, at, ...)                                                                                    \
    { .name = label, .kind = FIELD_##type, .offset = at, __VA_ARGS__ }
#define CONFIG(label, type, member, ...) FIELD(label, type, AT(member), __VA_ARGS__)
#define ENTRY(label, type, member, ...)  FIELD(label, type, offsetof(struct entry, member), __VA_ARGS__)
#define BOUNDS(low, high)                .least = low, .most = high
#define TENTHS(count, member)            .otherwise = INFINITY, .tenths = count, .of = AT(member)

static const char *const optimizers[] = {"muon", "adamw", NULL};
static const char *const actions[] = {"stop", "roll back", NULL};

static const struct field config_fields[] = {
    CONFIG("out", TEXT, out, .otherwise = NEEDED),
    CONFIG("from", TEXT, from, .otherwise = 0),
    CONFIG("tokenizer", TEXT, tokenizer, .otherwise = 0),
    CONFIG("cache", TEXT, cache, .otherwise = 0),
    CONFIG("seed", COUNT, seed, BOUNDS(0, WHOLE), .otherwise = 1),
    CONFIG("steps", COUNT, steps, BOUNDS(1, 1e9), .otherwise = NEEDED),
    CONFIG("batch.tokens", COUNT, tokens, BOUNDS(1, 1 << 24), .otherwise = 4096),
    CONFIG("batch.accumulate", COUNT, accumulate, BOUNDS(1, 65536), .otherwise = 1),
    CONFIG("rate.peak", NUMBER, rate.peak, BOUNDS(0, 1), .otherwise = 2e-3, .open = ABOVE),
    CONFIG("rate.floor", NUMBER, rate.floor, BOUNDS(0, 1), TENTHS(1, rate.peak)),
    CONFIG("rate.warmup", COUNT, rate.warmup, BOUNDS(0, 1e9), .otherwise = 100, .tenths = 1, .of = AT(steps)),
    CONFIG("rate.decay", COUNT, rate.decay, BOUNDS(0, 1e9), TENTHS(2, steps)),
    CONFIG("optimizer", CHOICE, optimizer, .otherwise = OPTIMIZER_MUON, .choices = optimizers),
    CONFIG("muon.momentum", NUMBER, muon.momentum, BOUNDS(0, 1), .otherwise = KEPT, .open = BELOW),
    CONFIG("muon.decay", NUMBER, muon.decay, BOUNDS(0, 100), .otherwise = KEPT),
    CONFIG("muon.scale", NUMBER, muon.scale, BOUNDS(0, 100), .otherwise = KEPT, .open = ABOVE),
    CONFIG("adam.beta1", NUMBER, adam.beta1, BOUNDS(0, 1), .otherwise = KEPT, .open = BELOW),
    CONFIG("adam.beta2", NUMBER, adam.beta2, BOUNDS(0, 1), .otherwise = KEPT, .open = BELOW),
    CONFIG("adam.eps", NUMBER, adam.eps, BOUNDS(0, 1), .otherwise = KEPT, .open = ABOVE),
    CONFIG("adam.decay", NUMBER, adam.decay, BOUNDS(0, 100), .otherwise = KEPT),
    CONFIG("table_rate", NUMBER, table_rate, BOUNDS(0, 1000), .otherwise = 5),
    CONFIG("clip", NUMBER, clip, BOUNDS(0, 1e9), .otherwise = 1),
    CONFIG("balance.speed", NUMBER, balance_speed, BOUNDS(0, 1), .otherwise = 1e-3),
    CONFIG("balance.weight", NUMBER, balance_weight, BOUNDS(0, 1000), .otherwise = 1e-4),
    CONFIG("mtp.weight", NUMBER, mtp_weight, BOUNDS(0, 1000), .otherwise = 0.3),
    CONFIG("mtp.decay_weight", NUMBER, mtp_decay_weight, BOUNDS(0, 1000), .otherwise = 0.1),
    CONFIG("index_weight", NUMBER, index_weight, BOUNDS(0, 1000), .otherwise = 1),
    CONFIG("dense", COUNT, dense, BOUNDS(0, 1e9), TENTHS(1, steps)),
    CONFIG("round_from", COUNT, round_from, BOUNDS(0, 1e9), TENTHS(8, steps)),
    CONFIG("every.validate", COUNT, validate_every, BOUNDS(0, 1e9), .otherwise = 200),
    CONFIG("every.save", COUNT, save_every, BOUNDS(0, 1e9), .otherwise = 200),
    CONFIG("validation_tokens", COUNT, validation_tokens, BOUNDS(0, WHOLE), .otherwise = 0),
    CONFIG("spike.action", CHOICE, on_spike, .otherwise = SPIKE_ROLL_BACK, .choices = actions),
    CONFIG("spike.factor", NUMBER, spike_factor, BOUNDS(1, 1e9), .otherwise = 3, .open = ABOVE),
    CONFIG("recompute", BOOL, recompute, .otherwise = 0),
    CONFIG("threads", COUNT32, threads, BOUNDS(0, 4096), .otherwise = 0),
    {.name = NULL}};

/* Fields that are read by themselves. */
static const char *const other_fields[] = {"model", "data", "validation", NULL};
static const char *const no_fields[] = {NULL};

/* A data source as it is written. */
struct entry {
    char *path;
    int format; /* enum data_kind, or UNSAID */
    char *separator;
    int learn; /* LEARN_ALL, LEARN_ANSWERS or UNSAID */
    bool whole;
    double weight;
};

enum { UNSAID = -1, LEARN_ALL = 0, LEARN_ANSWERS = 1 };
static const char *const formats[] = {[DATA_TEXT] = "text", [DATA_JSONL] = "jsonl", NULL};
static const char *const learns[] = {[LEARN_ALL] = "all", [LEARN_ANSWERS] = "answers", NULL};

/* Validation has all but the weight. */
static const struct field data_fields[] = {
    ENTRY("weight", NUMBER, weight, BOUNDS(0, 1e9), .otherwise = 1, .open = ABOVE),
    ENTRY("path", TEXT, path, .otherwise = NEEDED),
    ENTRY("format", CHOICE, format, .otherwise = UNSAID, .choices = formats),
    ENTRY("separator", TEXT_OR_NONE, separator, .otherwise = 0),
    ENTRY("learn", CHOICE, learn, .otherwise = UNSAID, .choices = learns),
    ENTRY("whole", BOOL, whole, .otherwise = 0),
    {.name = NULL}};
static const struct field *const validation_fields = data_fields + 1;

/* ------------------------------------------------------------------------------------------ failures */

struct reader {
    const char *what;
    char path[40]; /* "" or "data[3].": what stands before the names of fields */
    int rc;
    struct sonde_error *e;
};

/* Enough of a value to know it by. */
static const char *excerpt(const json_t *value, char text[49]) {
    if (!value)
        return "nothing";
    if (json_is_object(value))
        return "an object";
    if (json_is_array(value)) {
        snprintf(text, 49, "an array of %zu", json_array_size(value));
        return text;
    }
    char *json = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_ENSURE_ASCII);
    if (!json)
        return "this value";
    snprintf(text, 49, strlen(json) < 48 ? "%s" : "%.45s...", json);
    free(json);
    return text;
}

/* "FILE: field NAME: expected ..., not VALUE" */
static void PRINTF_LIKE(4, 5) wrong(struct reader *r, const char *name, const json_t *value, const char *format, ...) {
    char text[49], expected[256];
    va_list args;
    if (r->rc)
        return;
    va_start(args, format);
    vsnprintf(expected, sizeof(expected), format, args);
    va_end(args);
    r->rc = err_set(r->e, SONDE_ERROR_FORMAT, "%s: field %s%s: expected %s, not %s", r->what, r->path, name, expected,
                    excerpt(value, text));
}

static void out_of_memory(struct reader *r) {
    if (!r->rc)
        r->rc = err_memory(r->e);
}

/* -------------------------------------------------------------------------------------- unknown names */

/* All names that there are: of fields, and of those that are read by themselves. */
struct names {
    const struct field *fields;
    const char *const *others;
    size_t field_count, count;
};

static const char *name_at(const void *context, size_t i) {
    const struct names *n = context;
    return i < n->field_count ? n->fields[i].name : n->others[i - n->field_count];
}

/* What may have been meant: a name without the object that it belongs in, or a slip of the pen. NULL: nothing is near.
 */
static const char *meant(const char *written, const struct names *n) {
    for (size_t i = 0; i < n->field_count; i++) {
        const char *dot = strchr(n->fields[i].name, '.');
        if (dot && strcmp(written, dot + 1) == 0)
            return n->fields[i].name;
    }
    const char *near = nearest_name(written, n->count, name_at, n);
    return near && strcmp(near, written) != 0 ? near : NULL;
}

static void refuse_unknown(struct reader *r, const struct field *fields, const char *const *others, const char *name) {
    struct names all = {.fields = fields, .others = others};
    if (r->rc)
        return;
    while (fields[all.field_count].name)
        all.field_count++;
    all.count = all.field_count;
    while (others[all.count - all.field_count])
        all.count++;
    const char *near = meant(name, &all);
    r->rc = err_set(r->e, SONDE_ERROR_FORMAT, "%s: field %s%.64s: there is no such field%s%s%s", r->what, r->path, name,
                    near ? ", but there is " : "", near ? r->path : "", near ? near : "");
}

static bool is_field(const struct field *fields, const char *name) {
    for (; fields->name; fields++)
        if (strcmp(fields->name, name) == 0)
            return true;
    return false;
}

/* Some field begins with name and a dot. */
static bool is_group(const struct field *fields, const char *name) {
    size_t n = strlen(name);
    for (; fields->name; fields++)
        if (strncmp(fields->name, name, n) == 0 && fields->name[n] == '.')
            return true;
    return false;
}

/* The names in an object that is the field `group`. */
static void check_group(struct reader *r, const char *group, json_t *object, const struct field *fields,
                        const char *const *others) {
    const char *name;
    json_t *ignored;
    json_object_foreach(object, name, ignored) {
        char full[128];
        snprintf(full, sizeof(full), "%.32s.%.64s", group, name);
        if (strchr(name, '.') || !is_field(fields, full))
            refuse_unknown(r, fields, others, full);
    }
}

/* All names of an object and of the objects in it are known. */
static void check_names(struct reader *r, json_t *object, const struct field *fields, const char *const *others) {
    const char *name;
    json_t *value;
    json_object_foreach(object, name, value) {
        bool dotted = strchr(name, '.'), known = is_field(fields, name) && !dotted;
        for (size_t i = 0; others[i]; i++)
            known |= strcmp(others[i], name) == 0;
        if (known)
            continue;
        if (dotted || !is_group(fields, name))
            refuse_unknown(r, fields, others, name);
        else if (!json_is_object(value) && !json_is_null(value))
            wrong(r, name, value, "an object");
        else
            check_group(r, name, value, fields, others);
    }
}

/* --------------------------------------------------------------------------------------------- fields */

/* The value of "a.b" or "a"; NULL if it or its object is missing. */
static json_t *look_up(const json_t *object, const char *name) {
    const char *dot = strchr(name, '.');
    char group[32];
    if (!dot)
        return json_object_get(object, name);
    snprintf(group, sizeof(group), "%.*s", (int)(dot - name), name);
    return json_object_get(json_object_get(object, group), dot + 1);
}

static void read_text(struct reader *r, const struct field *f, const json_t *value, char **to) {
    if (!value || (json_is_null(value) && f->kind == FIELD_TEXT_OR_NONE)) {
        if (f->otherwise == NEEDED)
            wrong(r, f->name, value, "a text");
        return;
    }
    const char *text = json_string_value(value);
    if (!text || !*text || strlen(text) != json_string_length(value)) {
        wrong(r, f->name, value, "a text of at least one letter");
        return;
    }
    *to = strdup(text);
    if (!*to)
        out_of_memory(r);
}

static void read_choice(struct reader *r, const struct field *f, const json_t *value, int *to) {
    char list[128] = "";
    *to = (int)f->otherwise;
    if (!value)
        return;
    for (int i = 0; f->choices[i]; i++) {
        size_t n = strlen(list);
        snprintf(list + n, sizeof(list) - n, "%s\"%s\"", i ? " or " : "", f->choices[i]);
        if (json_is_string(value) && strcmp(json_string_value(value), f->choices[i]) == 0) {
            *to = i;
            return;
        }
    }
    wrong(r, f->name, value, "%s", list);
}

static void read_bool(struct reader *r, const struct field *f, const json_t *value, bool *to) {
    if (value && !json_is_boolean(value))
        wrong(r, f->name, value, "true or false");
    *to = json_is_true(value);
}

static double number_at(const struct field *f, const void *place) {
    uint64_t wide;
    uint32_t narrow;
    double number;
    if (f->kind == FIELD_COUNT)
        return memcpy(&wide, place, sizeof(wide)), (double)wide;
    if (f->kind == FIELD_COUNT32)
        return memcpy(&narrow, place, sizeof(narrow)), (double)narrow;
    return memcpy(&number, place, sizeof(number)), number;
}

static void set_number(const struct field *f, void *place, double x) {
    if (f->kind == FIELD_COUNT)
        memcpy(place, &(uint64_t){(uint64_t)x}, sizeof(uint64_t));
    else if (f->kind == FIELD_COUNT32)
        memcpy(place, &(uint32_t){(uint32_t)x}, sizeof(uint32_t));
    else
        memcpy(place, &x, sizeof(x));
}

static double default_number(const struct field *f, const void *into) {
    const struct field of = {.kind = f->kind};
    const char *base = into;
    if (isnan(f->otherwise))
        return number_at(f, base + f->offset);
    double x = f->otherwise;
    if (f->tenths)
        x = fmin(x, number_at(&of, base + f->of) * f->tenths / 10);
    return f->kind == FIELD_NUMBER ? x : floor(x);
}

static void refuse_number(struct reader *r, const struct field *f, const json_t *value) {
    const char *what = f->kind == FIELD_NUMBER ? "a number" : "an integer";
    if (f->open & ABOVE)
        wrong(r, f->name, value, "%s above %.16g and at most %.16g", what, f->least, f->most);
    else
        wrong(r, f->name, value, "%s from %.16g to %s%.16g", what, f->least, f->open & BELOW ? "below " : "", f->most);
}

static void read_number(struct reader *r, const struct field *f, const json_t *value, void *into) {
    void *place = (char *)into + f->offset;
    if (!value && f->otherwise != NEEDED) {
        set_number(f, place, default_number(f, into));
        return;
    }
    double x = json_is_number(value) ? json_number_value(value) : NAN;
    bool inside = x >= f->least && x <= f->most && !(f->open & ABOVE && x == f->least);
    inside = inside && !(f->open & BELOW && x == f->most);
    if (inside && (f->kind == FIELD_NUMBER || x == floor(x)))
        set_number(f, place, x);
    else
        refuse_number(r, f, value);
}

static void read_field(struct reader *r, const struct field *f, const json_t *value, void *into) {
    void *place = (char *)into + f->offset;
    if (r->rc)
        return;
    if (json_is_null(value) && f->kind != FIELD_TEXT_OR_NONE)
        value = NULL;
    if (f->kind == FIELD_TEXT || f->kind == FIELD_TEXT_OR_NONE)
        read_text(r, f, value, place);
    else if (f->kind == FIELD_CHOICE)
        read_choice(r, f, value, place);
    else if (f->kind == FIELD_BOOL)
        read_bool(r, f, value, place);
    else
        read_number(r, f, value, into);
}

static void read_fields(struct reader *r, const json_t *object, const struct field *fields, void *into) {
    for (; fields->name; fields++)
        read_field(r, fields, look_up(object, fields->name), into);
}

/* ----------------------------------------------------------------------------------------------- data */

static bool ends_in(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* What an entry does not say follows from its path and format. */
static void complete_entry(struct reader *r, const json_t *object, struct entry *t) {
    if (t->format == UNSAID)
        t->format = ends_in(t->path, ".jsonl") ? DATA_JSONL : DATA_TEXT;
    if (t->learn == UNSAID)
        t->learn = t->format == DATA_JSONL ? LEARN_ANSWERS : LEARN_ALL;
    if (t->separator && (t->format == DATA_JSONL || strpbrk(t->separator, "\r\n")))
        wrong(r, "separator", json_object_get(object, "separator"), "%s",
              t->format == DATA_JSONL ? "none, for the format is jsonl" : "a text without line ends");
    if (t->format == DATA_TEXT && !json_object_get(object, "separator")) {
        t->separator = strdup(SEPARATOR);
        if (!t->separator)
            out_of_memory(r);
    }
}

static void read_entry(struct reader *r, json_t *object, const struct field *fields, struct data_source *to) {
    struct entry t = {.weight = 1};
    check_names(r, object, fields, no_fields);
    read_fields(r, object, fields, &t);
    if (!r->rc)
        complete_entry(r, object, &t);
    *to = (struct data_source){.path = t.path, .separator = t.separator, .weight = t.weight};
    if (r->rc)
        return;
    to->kind = (enum data_kind)t.format;
    to->flags = (t.learn == LEARN_ANSWERS ? DATA_ANSWERS : 0u) | (t.whole ? DATA_WHOLE : 0u);
}

static void read_entries(struct reader *r, const json_t *root, const char *name, const struct field *fields,
                         struct data_source *to, uint32_t *count) {
    const json_t *list = json_object_get(root, name);
    size_t n = json_array_size(list), least = fields == data_fields;
    if (!least && (!list || json_is_null(list)))
        return;
    if (!json_is_array(list) || n < least || n > DATA_SOURCES) {
        wrong(r, name, list, "an array of %s%d objects", least ? "1 to " : "at most ", DATA_SOURCES);
        return;
    }
    for (size_t i = 0; !r->rc && i < n; i++) {
        char field[32];
        json_t *object = json_array_get(list, i);
        snprintf(field, sizeof(field), "%s[%zu]", name, i);
        if (!json_is_object(object)) {
            wrong(r, field, object, "an object");
            return;
        }
        snprintf(r->path, sizeof(r->path), "%s.", field);
        read_entry(r, object, fields, &to[i]);
        *count = (uint32_t)i + 1;
        r->path[0] = 0;
    }
}

/* --------------------------------------------------------------------------------------------- config */

static void read_model(struct reader *r, const json_t *root, struct train_config *c) {
    json_t *model = json_object_get(root, "model");
    if (json_is_null(model))
        model = NULL;
    if (!model == !c->from)
        wrong(r, "model", model, c->from ? "none, for field from is given" : "an object, or field from");
    else if (model && !json_is_object(model))
        wrong(r, "model", model, "an object");
    else
        c->model = json_incref(model);
}

static void check_rate(struct reader *r, const json_t *root, const struct train_config *c) {
    if (r->rc)
        return;
    if (c->rate.floor > c->rate.peak)
        wrong(r, "rate.floor", look_up(root, "rate.floor"), "at most rate.peak, %g", c->rate.peak);
    else if (c->rate.warmup + c->rate.decay > c->steps)
        r->rc = err_set(r->e, SONDE_ERROR_FORMAT,
                        "%s: field rate: expected warmup and decay of %llu steps or less together, not %llu and %llu",
                        r->what, (unsigned long long)c->steps, (unsigned long long)c->rate.warmup,
                        (unsigned long long)c->rate.decay);
}

static void complete_cache(struct reader *r, struct train_config *c) {
    struct buf cache = {0};
    if (c->cache || r->rc)
        return;
    file_join(&cache, c->out, "train/cache");
    r->rc = buf_take(&cache, &c->cache, NULL, r->e);
}

static void read_config(struct reader *r, json_t *root, struct train_config *c) {
    check_names(r, root, config_fields, other_fields);
    muon_options_default(&c->muon);
    adam_options_default(&c->adam);
    read_fields(r, root, config_fields, c);
    if (!r->rc)
        read_model(r, root, c);
    read_entries(r, root, "data", data_fields, c->data, &c->data_count);
    read_entries(r, root, "validation", validation_fields, c->validation, &c->validation_count);
    c->rate.end = c->steps;
    check_rate(r, root, c);
    complete_cache(r, c);
}

int train_config_parse(const char *json, size_t bytes, const char *what, struct train_config *config,
                       struct sonde_error *e) {
    struct reader r = {.what = what, .e = e};
    struct train_config c = {0};
    json_t *root;
    int rc = json_parse(json, bytes, what, &root, e);
    if (rc)
        return rc;
    if (json_is_object(root))
        read_config(&r, root, &c);
    else
        r.rc = err_set(e, SONDE_ERROR_FORMAT, "%s: not an object", what);
    json_decref(root);
    if (r.rc)
        train_config_release(&c);
    else
        *config = c;
    return r.rc;
}

static void release_sources(struct data_source *sources, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        free((void *)(uintptr_t)sources[i].path);
        free((void *)(uintptr_t)sources[i].separator);
    }
}

void train_config_release(struct train_config *c) {
    release_sources(c->data, c->data_count);
    release_sources(c->validation, c->validation_count);
    free(c->out);
    free(c->from);
    free(c->tokenizer);
    free(c->cache);
    json_decref(c->model);
    *c = (struct train_config){0};
}

/* -------------------------------------------------------------------------------------------- writing */

static json_t *field_json(const struct field *f, const void *from) {
    const void *place = (const char *)from + f->offset;
    const char *text;
    int choice;
    bool flag;
    switch (f->kind) {
    case FIELD_TEXT:
    case FIELD_TEXT_OR_NONE:
        memcpy(&text, place, sizeof(text));
        return text ? json_string(text) : json_null();
    case FIELD_CHOICE:
        memcpy(&choice, place, sizeof(choice));
        return json_string(f->choices[choice]);
    case FIELD_BOOL:
        memcpy(&flag, place, sizeof(flag));
        return json_boolean(flag);
    case FIELD_NUMBER:
        return json_real(number_at(f, place));
    default:
        return json_integer((json_int_t)number_at(f, place));
    }
}

/* 0 or -1: no memory. */
static int write_fields(json_t *object, const struct field *fields, const void *from) {
    for (const struct field *f = fields; f->name; f++) {
        const char *dot = strchr(f->name, '.');
        json_t *value = field_json(f, from), *to = object;
        if (f->kind == FIELD_TEXT && json_is_null(value))
            continue;
        if (dot) {
            char group[32];
            snprintf(group, sizeof(group), "%.*s", (int)(dot - f->name), f->name);
            if (!json_object_get(object, group) && json_object_set_new(object, group, json_object()))
                return json_decref(value), -1;
            to = json_object_get(object, group);
        }
        if (json_object_set_new(to, dot ? dot + 1 : f->name, value))
            return -1;
    }
    return 0;
}

static json_t *entries_json(const struct data_source *sources, uint32_t count, const struct field *fields) {
    json_t *list = json_array();
    for (uint32_t i = 0; list && i < count; i++) {
        const struct data_source *s = &sources[i];
        struct entry t = {
            .path = (char *)(uintptr_t)s->path, .separator = (char *)(uintptr_t)s->separator, .weight = s->weight};
        json_t *object = json_object();
        t.format = (int)s->kind;
        t.learn = s->flags & DATA_ANSWERS ? LEARN_ANSWERS : LEARN_ALL;
        t.whole = s->flags & DATA_WHOLE;
        if (!object || write_fields(object, fields, &t) || json_array_append(list, object)) {
            json_decref(list);
            list = NULL;
        }
        json_decref(object);
    }
    return list;
}

/* With as few digits as say every number exactly; NULL: no memory. */
static char *shortest_text(const json_t *root) {
    for (size_t digits = 6; digits <= 17; digits++) {
        char *text = json_dumps(root, JSON_INDENT(4) | JSON_REAL_PRECISION(digits));
        json_t *back = text ? json_loads(text, JSON_ALLOW_NUL, NULL) : NULL;
        bool same = json_equal(root, back);
        json_decref(back);
        if (same)
            return text;
        free(text);
    }
    return NULL;
}

int train_config_text(const struct train_config *c, char **json, size_t *length, struct sonde_error *e) {
    json_t *root = json_object();
    bool whole = root && !write_fields(root, config_fields, c);
    if (whole && c->model)
        whole = !json_object_set(root, "model", c->model);
    whole = whole && !json_object_set_new(root, "data", entries_json(c->data, c->data_count, data_fields));
    if (whole)
        whole = !json_object_set_new(root, "validation",
                                     entries_json(c->validation, c->validation_count, validation_fields));
    char *text = whole ? shortest_text(root) : NULL;
    json_decref(root);
    if (!text)
        return err_memory(e);
    *length = strlen(text);
    *json = text;
    return SONDE_OK;
}

static_assert(sizeof(enum spike_action) == sizeof(int), "choices are kept as int");
