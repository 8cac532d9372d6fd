// CRC-32C with the instructions that processors have for it, compiled once for each kind of them. The file that includes
// this one sets
//
//   STREAMS_SUM                  the name of the function to define
//   CRC_64, _32, _16, _8         (crc, word): the checksum after a word more, without the inversions before and after
//   STREAMS_PRODUCT              (a, b): the carry-less product of two times 32 bits. Without it there is one stream.
//
// After V. Gopal et al., "Fast CRC Computation for iSCSI Polynomial Using CRC32 Instruction" (Intel, 2011): such an
// instruction takes three cycles, but in each of them one can begin. So the bytes are cut into three streams, which are
// summed side by side; what the first two come to is then moved over the bytes behind them, which is a product modulo
// the polynomial. Of that product the instruction itself takes the remainder.

static uint32_t STREAMS_SUM(uint32_t before, const void *bytes, size_t count) {
    const uint8_t *place = bytes, *end = place + count;
    uint32_t crc = ~before;
#ifdef STREAMS_PRODUCT
    while ((size_t)(end - place) >= 24 * LEAST_WORDS) {
        size_t words = (size_t)(end - place) / 24;
        words = words > MOST_WORDS ? MOST_WORDS : words;
        const uint8_t *second = place + 8 * words, *third = second + 8 * words;
        uint32_t middle = 0, last = 0;
        for (size_t i = 0; i < 8 * words; i += 8) {
            crc = CRC_64(crc, word_at(place + i));
            middle = CRC_64(middle, word_at(second + i));
            last = CRC_64(last, word_at(third + i));
        }
        uint64_t moved =
            STREAMS_PRODUCT(crc, shifts[2 * words - 1]) ^ STREAMS_PRODUCT(middle, shifts[words - 1]);
        crc = CRC_64(0, moved) ^ last;
        place = third + 8 * words;
    }
#endif
    for (; end - place >= 8; place += 8) {
        crc = CRC_64(crc, word_at(place));
    }
    if (count & 4) {
        uint32_t word;
        memcpy(&word, place, sizeof word);
        crc = CRC_32(crc, word);
        place += 4;
    }
    if (count & 2) {
        uint16_t word;
        memcpy(&word, place, sizeof word);
        crc = CRC_16(crc, word);
        place += 2;
    }
    if (count & 1) {
        crc = CRC_8(crc, *place);
    }
    return ~crc;
}
