/*
 * ttlv: KMIP's encoding (OASIS KMIP 1.4 section 9.1): an item is a tag of 3 bytes, a type of 1, a length of 4, and its
 * value padded with zeros to 8 bytes; a structure's value is items. All big-endian. Bytes in, bytes out.
 *
 * Written into memory of the caller's, read where it lies: an item lends its value.
 */
#ifndef KEYMGR_TTLV_H
#define KEYMGR_TTLV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TTLV_HEADER_LEN 8
#define TTLV_DEPTH_MAX 16 /* structures in structures; KMIP itself uses 8 */

enum ttlv_type {
	TTLV_STRUCTURE = 1,
	TTLV_INTEGER = 2,
	TTLV_LONG = 3,
	TTLV_BIG = 4,
	TTLV_ENUM = 5,
	TTLV_BOOLEAN = 6,
	TTLV_TEXT = 7,
	TTLV_BYTES = 8,
	TTLV_DATE = 9,
	TTLV_INTERVAL = 10
};

/* Puts items one after another. What does not fit is not written, and shows in ttlv_ok at the end. */
struct ttlv_writer {
	uint8_t *data;
	size_t room, len;
	bool overflow;
};

/* A structure: everything put between begin, which returns where it began, and end. */
size_t ttlv_begin(struct ttlv_writer *w, uint32_t tag);
void ttlv_end(struct ttlv_writer *w, size_t begun);
void ttlv_put_integer(struct ttlv_writer *w, uint32_t tag, int32_t value);
void ttlv_put_enum(struct ttlv_writer *w, uint32_t tag, uint32_t value);
/* Types of 8 bytes: TTLV_LONG, TTLV_BOOLEAN, TTLV_DATE. */
void ttlv_put_wide(struct ttlv_writer *w, uint32_t tag, enum ttlv_type type, uint64_t value);
void ttlv_put_text(struct ttlv_writer *w, uint32_t tag, const char *text);
void ttlv_put_bytes(struct ttlv_writer *w, uint32_t tag, const uint8_t *data, size_t len);
bool ttlv_ok(const struct ttlv_writer *w);

struct ttlv {
	uint32_t tag;
	enum ttlv_type type;
	const uint8_t *value;
	size_t len; /* without padding */
};

/* Length of the item whose first TTLV_HEADER_LEN bytes these are, header and padding included; 0 when it is beyond max.
 */
size_t ttlv_total(const uint8_t *header, size_t max);
/* Is all of data one item, whole at every level, with lengths that fit the types and zero padding? Then every reading
 * below stays inside it. */
bool ttlv_parse(const uint8_t *data, size_t len, struct ttlv *item);
/* The child behind prev (NULL: the first) of a structure from ttlv_parse; false: no more. */
bool ttlv_next(const struct ttlv *structure, const struct ttlv *prev, struct ttlv *child);
/* The first child of that tag and type. */
bool ttlv_find(const struct ttlv *structure, uint32_t tag, enum ttlv_type type, struct ttlv *child);
/* The value of an integer, enumeration or interval. */
uint32_t ttlv_u32(const struct ttlv *item);
/* The value of a text; false when it does not fit or holds a zero byte. */
bool ttlv_text(const struct ttlv *item, char *out, size_t out_len);

#endif
