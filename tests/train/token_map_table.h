/* token_map_table.h - compact ids of tokens; made by tests/oracle/make_token_map.py. */
static const struct {
    const char *text; /* of a token behind the 256 bytes */
    int64_t id;
} token_map_table[] = {
    {"\x48\x65\x6c\x6c\x6f", 227},
    {"\x68\x65\x6c\x6c\x6f", 227},
    {"\x20\x68\x65\x6c\x6c\x6f", 227},
    {"\x48\x45\x4c\x4c\x4f\x0a", 227},
    {"\x68\xc3\xa9\x6c\x6c\x6f", 227},
    {"\x68\x65\xcc\x81\x6c\x6c\x6f", 227},
    {"\x48\xc3\x88\x4c\x4c\x4f\x20", 227},
    {"\xef\xbc\xa8\xef\xbd\x85\xef\xbd\x8c\xef\xbd\x8c\xef\xbd\x8f", 227},
    {"\x20\x20", 9},
    {"\x09\x0a", 9},
    {"\x61\x20\x62", 228},
    {"\x41\x20\x09\x20\x42", 228},
    {"\x61\x20\x20\x62", 228},
    {"\xe3\x80\x80\x61\xc2\xa0\x62", 228},
    {"\xef\xac\x81\x6e", 229},
    {"\x46\x49\x4e", 229},
    {"\xe2\x85\xa3", 230},
    {"\x69\x76", 230},
    {"\xc2\xb2", 47},
    {"\xc3\x9f", 194},
    {"\xe1\xba\x9e", 194},
    {"\xc4\xb0", 70},
    {"\xc4\xb1", 114},
    {"\x69\xcc\x87", 70},
    {"\xce\xa3\xce\x91\xce\xa3", 231},
    {"\xcf\x83\xce\xb1\xcf\x83", 231},
    {"\xcf\x83\xce\xb1\xcf\x82", 232},
    {"\xc3\xa6", 201},
    {"\xc3\x86", 201},
    {"\xc3\xb8", 219},
    {"\xc3\x98", 219},
    {"\xc4\x91", 233},
    {"\xc5\x82", 131},
    {"\xcc\x81", 234},
    {"\xcc\x81\xcc\x80", 235},
    {"\xe2\x80\x8d", 236},
    {"\xe0\xb8\x81\xe0\xb8\xb4", 237},
    {"\xe0\xb8\x81", 237},
    {"\xe0\xa4\x95\xe0\xa4\xbe", 238},
    {"\xe0\xa4\x95", 238},
    {"\xea\xb0\x80", 239},
    {"\xe1\x84\x80\xe1\x85\xa1", 239},
    {"\xe4\xb8\xad", 240},
    {"\xef\xa5\xa7", 241},
    {"\xe4\xb8\x8d", 241},
    {"\xef\xbf\xbd", 242},
    {"\xe2\x80\xa8\x78", 85},
    {"\x78\xe1\x9a\x80", 85},
    {"\x1c\x78", 85},
    {"\x0b\x58\xc2\x85", 85},
    {"\xc3\xa5", 62},
    {"\xe2\x84\xab", 62},
    {"\xf0\x9d\x90\x80", 62},
    {"\xf0\x90\x90\x80", 243},
    {"\xf0\x90\x90\xa8", 243},
    {"\xc7\x84", 244},
    {"\xc7\x86", 244},
    {"\xc7\x85", 244},
    {"\xc2\xab\xc2\xa0", 142},
    {"\xc2\xbd", 245},
    {"\x31\xe2\x81\x84\x32", 245},
    {"\xef\xb7\xba", 246},
    {"\xe1\xbe\xb3", 247},
    {"\xce\x91\xce\x99", 248},
    {"\xe1\xbe\xbc", 247},
    {"\xd9\x84\xd8\xa7", 249},
    {"\xef\xbb\xbb", 249},
};

static const uint64_t token_map_bytes = 0x0279751f3c33f88f;

static const struct {
    int64_t tokens, ids;
    uint64_t hash;
} token_map_files[] = {
    {4096, 3566, 0x65303b5a57c06dd0},    /* models/nano/tokenizer.json */
    {129280, 99092, 0xfa04d8e57566ed12}, /* shared/tokenizer/tokenizer.json */
};
