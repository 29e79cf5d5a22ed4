/*
 * inspect.c - `sonde inspect`: what a model directory holds and what it will need.
 *
 * Reads headers only, so it answers at once for any size, except with --check, which reads every byte. One
 * description is built as JSON; the text for people is printed from it, so the two cannot disagree.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "inspect_internal.h"
#include "model/model.h"

struct inspect_options {
    bool json, tensors, check;
    uint64_t context;
};

/* ----------------------------------------------------------------------------------- description */

#define INT(value) ((json_int_t)(value))

/* DeepSeek-V4.1: full layers make entries and choose among them, reindex layers choose anew, others reuse a choice. */
static json_t *describe_roles(const struct shape *s) {
    uint32_t window = 0, full = 0, reindex = 0;
    json_t *ratios = json_array();
    for (uint32_t i = 0; i < s->layers; i++) {
        bool chooses = s->v41.index_source[i] == i;
        window += s->ratios[i] == 0;
        full += s->v41.key_source[i] == i;
        reindex += chooses && s->v41.key_source[i] != i;
        json_array_append_new(ratios, json_integer(s->ratios[i]));
    }
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "total", INT(s->layers), "window", INT(window), "full",
                     INT(full), "reindex", INT(reindex), "reuse", INT(s->layers - window - full - reindex), "engram",
                     INT(s->engram.count), "compress_ratios", ratios);
}

static json_t *describe_layers(const struct shape *s) {
    if (s->family == FAMILY_V41)
        return describe_roles(s);
    uint32_t window = 0, indexed = 0, compressed = 0;
    json_t *ratios = json_array();
    for (uint32_t i = 0; i < s->layers; i++) {
        window += s->ratios[i] == 0;
        indexed += s->ratios[i] == 4;
        compressed += s->ratios[i] != 0 && s->ratios[i] != 4;
        json_array_append_new(ratios, json_integer(s->ratios[i]));
    }
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "total", INT(s->layers), "window", INT(window), "csa",
                     INT(indexed), "hca", INT(compressed), "hash_routed", INT(s->hash_layers), "mtp",
                     INT(s->mtp_blocks), "engram", INT(s->engram.count), "compress_ratios", ratios);
}

static json_t *describe_shape(const struct shape *s) {
    json_t *shape =
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "vocab", INT(s->vocab), "hidden", INT(s->hidden), "heads",
                  INT(s->heads), "head_dim", INT(s->head_dim), "rope_dim", INT(s->rope_dim), "q_rank", INT(s->q_rank),
                  "o_groups", INT(s->o_groups), "o_rank", INT(s->o_rank));
    json_t *more =
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "window", INT(s->window), "index_heads",
                  INT(s->index_heads), "index_dim", INT(s->index_dim), "index_topk", INT(s->index_topk), "experts",
                  INT(s->experts), "experts_active", INT(s->active), "experts_shared", INT(s->shared_experts),
                  "expert_width", INT(s->inter), "streams", INT(s->streams), "context", INT(s->context));
    json_object_update(shape, more);
    json_decref(more);
    return shape;
}

static json_t *describe_bytes(const struct tally *t) {
    json_t *bytes = json_object();
    for (int d = 0; d < DTYPE_COUNT; d++)
        if (t->bytes[d])
            json_object_set_new(bytes, dtype_name((enum dtype)d), json_integer(INT(t->bytes[d])));
    json_object_set_new(bytes, "total", json_integer(INT(t->total_bytes)));
    return bytes;
}

/* A path as JSON, which takes UTF-8 only: in a path that is none, bytes beyond ASCII become '?'. */
static json_t *describe_path(const char *path) {
    json_t *value = json_string(path);
    struct buf b = {0};
    for (const char *c = path; !value && *c; c++)
        buf_byte(&b, (unsigned char)*c < 0x80 ? *c : '?');
    if (!value && b.len)
        value = json_string(b.data);
    buf_release(&b);
    return value;
}

static json_t *describe_tensor(const struct checkpoint *c, const struct tensor *t) {
    json_t *dims = json_array();
    for (uint32_t i = 0; i < t->rank; i++)
        json_array_append_new(dims, json_integer(INT(t->dims[i])));
    return json_pack("{s:s, s:s, s:o, s:I, s:o}", "name", t->name, "dtype",
                     t->foreign ? t->foreign : dtype_name(t->dtype), "shape", dims, "bytes", INT(t->bytes), "file",
                     describe_path(checkpoint_file(c, t)));
}

static json_t *describe_tensors(const struct checkpoint *c) {
    json_t *list = json_array();
    for (size_t i = 0; i < checkpoint_count(c); i++)
        json_array_append_new(list, describe_tensor(c, checkpoint_at(c, i)));
    return list;
}

/* Reads every value. */
static json_t *describe_check(const struct checkpoint *c) {
    struct progress progress;
    json_t *bad = json_array();
    size_t count = checkpoint_count(c);
    progress_init(&progress, "checking");
    for (size_t i = 0; i < count; i++) {
        const struct tensor *t = checkpoint_at(c, i);
        uint64_t first;
        if (!tensor_finite(t, &first))
            json_array_append_new(bad, json_pack("{s:s, s:o, s:I}", "name", t->name, "file",
                                                 describe_path(checkpoint_file(c, t)), "first", INT(first)));
        progress_step(&progress, i + 1, count);
    }
    progress_end(&progress);
    return bad;
}

/* What a sequence of `context` tokens takes, as `sonde run` keeps it; by the function that places its memory. */
static json_t *describe_memory(const struct shape *s, uint64_t context, uint64_t weights, struct sonde_error *e) {
    uint64_t fixed, growing;
    if (model_cache_bytes(s, SONDE_PRECISION_FAST, context, &fixed, &growing, e))
        return NULL;
    return json_pack("{s:I, s:I, s:I, s:I, s:I}", "context", INT(context), "weights_bytes", INT(weights),
                     "cache_fixed_bytes", INT(fixed), "cache_growing_bytes", INT(growing), "cache_bytes",
                     INT(fixed + growing));
}

static int describe(const struct inspect_options *o, const char *path, const struct checkpoint *c, json_t **out,
                    struct sonde_error *e) {
    const struct shape *shape = checkpoint_shape(c);
    struct tally tally = {0};
    for (size_t i = 0; i < checkpoint_count(c); i++)
        tally_add(&tally, checkpoint_at(c, i), shape);
    tally_finish(&tally, shape);
    json_t *memory = describe_memory(shape, o->context ? o->context : shape->context, tally.total_bytes, e);
    if (!memory)
        return SONDE_ERROR_MEMORY;
    json_t *all = json_pack("{s:o, s:o, s:o, s:{s:I, s:I}, s:I, s:o, s:o}", "model", describe_path(path), "shape",
                            describe_shape(shape), "layers", describe_layers(shape), "parameters", "total",
                            INT(tally.parameters), "active", INT(tally.active), "tensor_count", INT(tally.tensors),
                            "bytes", describe_bytes(&tally), "memory", memory);
    if (all && o->check)
        json_object_set_new(all, "not_finite", describe_check(c));
    if (all && o->tensors)
        json_object_set_new(all, "tensors", describe_tensors(c));
    *out = all;
    return all ? SONDE_OK : err_set(e, SONDE_ERROR_FORMAT, "%s: a name that is not UTF-8", path);
}

/* ---------------------------------------------------------------------------------------- as text */

static json_int_t get(const json_t *object, const char *name) {
    return json_integer_value(json_object_get(object, name));
}

/* 1234567 as "1,234,567". */
static void grouped(struct buf *b, json_int_t value) {
    char digits[32];
    int n = snprintf(digits, sizeof(digits), "%lld", (long long)value);
    for (int i = 0; i < n; i++) {
        buf_byte(b, digits[i]);
        if (i + 1 < n && (n - i - 1) % 3 == 0)
            buf_byte(b, ',');
    }
}

static void bytes_line(struct buf *b, const char *what, json_int_t bytes) {
    size_t start = b->len;
    buf_printf(b, "  %-12s", what);
    grouped(b, bytes);
    buf_printf(b, "%*s", (int)(36 - min_u64(36, b->len - start)), "");
    bool large = bytes >= 1 << 30;
    buf_printf(b, "%.2f %s\n", (double)bytes / (large ? 0x1p30 : 0x1p20), large ? "GiB" : "MiB");
}

static void print_shape(struct buf *b, const json_t *s, const json_t *l) {
    buf_printf(b, "shape       %lld wide, %lld streams, vocabulary %lld, context %lld\n", get(s, "hidden"),
               get(s, "streams"), get(s, "vocab"), get(s, "context"));
    buf_printf(b, "attention   %lld heads of %lld, window %lld, indexer %lld heads of %lld keeps %lld\n",
               get(s, "heads"), get(s, "head_dim"), get(s, "window"), get(s, "index_heads"), get(s, "index_dim"),
               get(s, "index_topk"));
    buf_printf(b, "experts     %lld, %lld and %lld shared of them active, %lld wide\n", get(s, "experts"),
               get(s, "experts_active"), get(s, "experts_shared"), get(s, "expert_width"));
    if (json_object_get(l, "reuse")) {
        buf_printf(b, "layers      %lld: %lld window only, %lld make entries, %lld choose anew, %lld reuse a choice\n",
                   get(l, "total"), get(l, "window"), get(l, "full"), get(l, "reindex"), get(l, "reuse"));
        buf_printf(b, "            %lld with Engram\n", get(l, "engram"));
        return;
    }
    buf_printf(b, "layers      %lld: %lld window only, %lld compressed and indexed (CSA), %lld compressed (HCA)\n",
               get(l, "total"), get(l, "window"), get(l, "csa"), get(l, "hca"));
    buf_printf(b, "            %lld routed by token, %lld with Engram, %lld multi-token prediction beside\n",
               get(l, "hash_routed"), get(l, "engram"), get(l, "mtp"));
}

static void print_tensors(struct buf *b, const json_t *tensors) {
    for (size_t i = 0; i < json_array_size(tensors); i++) {
        const json_t *t = json_array_get(tensors, i), *dims = json_object_get(t, "shape");
        buf_printf(b, "%-60s %-8s [", json_string_value(json_object_get(t, "name")),
                   json_string_value(json_object_get(t, "dtype")));
        for (size_t k = 0; k < json_array_size(dims); k++)
            buf_printf(b, "%s%lld", k ? ", " : "", json_integer_value(json_array_get(dims, k)));
        buf_printf(b, "]\n");
    }
}

static void print_text(struct buf *b, const json_t *all) {
    const json_t *parameters = json_object_get(all, "parameters"), *memory = json_object_get(all, "memory");
    json_t *bytes = json_object_get(all, "bytes");
    buf_printf(b, "model       %s\n", json_string_value(json_object_get(all, "model")));
    print_shape(b, json_object_get(all, "shape"), json_object_get(all, "layers"));
    buf_string(b, "parameters  ");
    grouped(b, get(parameters, "total"));
    buf_string(b, " total, ");
    grouped(b, get(parameters, "active"));
    buf_string(b, " active\n");
    buf_printf(b, "bytes       of %lld tensors\n", get(all, "tensor_count"));
    for (void *at = json_object_iter(bytes); at; at = json_object_iter_next(bytes, at))
        bytes_line(b, json_object_iter_key(at), json_integer_value(json_object_iter_value(at)));
    buf_printf(b, "memory      for a context of %lld tokens\n", get(memory, "context"));
    bytes_line(b, "weights", get(memory, "weights_bytes"));
    bytes_line(b, "cache", get(memory, "cache_bytes"));
    if (json_object_get(all, "not_finite"))
        buf_printf(b, "check       %zu tensors hold values that are not finite\n",
                   json_array_size(json_object_get(all, "not_finite")));
    print_tensors(b, json_object_get(all, "tensors"));
}

/* ----------------------------------------------------------------------------------------- command */

static int print(const struct inspect_options *o, const json_t *all) {
    struct output out = {.fd = STDOUT_FILENO};
    struct buf b = {0};
    if (o->json) {
        char *text = json_dumps(all, JSON_INDENT(2));
        buf_printf(&b, "%s\n", text ? text : "");
        b.failed |= !text;
        free(text);
    } else {
        print_text(&b, all);
    }
    output_buf(&out, &b);
    return output_status(&out);
}

static int report_bad(const json_t *bad) {
    for (size_t i = 0; i < json_array_size(bad); i++) {
        const json_t *t = json_array_get(bad, i);
        notice("%s: tensor %s: element %lld is not a finite number", json_string_value(json_object_get(t, "file")),
               json_string_value(json_object_get(t, "name")), (long long)get(t, "first"));
    }
    return json_array_size(bad) ? STATUS_WORLD : STATUS_DONE;
}

static int inspect(int argc, char **argv) {
    struct inspect_options o = {0};
    struct checkpoint *c;
    struct sonde_error e;
    json_t *all = NULL;
    const char *operands[1];
    int status = flags_parse(&command_inspect, argc, argv, &o, operands);
    if (status >= 0)
        return status;
    if (checkpoint_open(operands[0], &c, &e))
        return report(&e);
    if (describe(&o, operands[0], c, &all, &e)) {
        status = report(&e);
    } else {
        status = print(&o, all);
        int bad = report_bad(json_object_get(all, "not_finite"));
        status = status ? status : bad;
    }
    json_decref(all);
    checkpoint_close(c);
    return status;
}

/* clang-format off */
static const struct flag flags[] = {
    {.name = "json", .kind = FLAG_SWITCH, .at = offsetof(struct inspect_options, json), .help = "one JSON object"},
    {.name = "tensors", .kind = FLAG_SWITCH, .at = offsetof(struct inspect_options, tensors),
     .help = "list every tensor"},
    {.name = "check", .kind = FLAG_SWITCH, .at = offsetof(struct inspect_options, check),
     .help = "read every value; report those that are not finite"},
    {.name = "context", .kind = FLAG_COUNT, .at = offsetof(struct inspect_options, context), .value = "N",
     .least = 1, .most = UINT32_MAX, .help = "tokens to state memory for (default: the model's)"},
};
/* clang-format on */

const struct command command_inspect = {
    .name = "inspect",
    .operands = "MODEL",
    .operands_least = 1,
    .operands_most = 1,
    .summary = "what a model holds and needs",
    .about = "Prints shape, parameters, bytes by dtype and the memory a context needs, from the headers\n"
             "alone. Parameters are counted as the released figures are: two a byte of packed FP4,\n"
             "block scales and integer tables left out, multi-token prediction included.",
    .flags = flags,
    .flag_count = COUNT_OF(flags),
    .run = inspect,
};
