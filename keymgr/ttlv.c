#include "keymgr/ttlv.h"

#include <string.h>

static size_t
padded(size_t len)
{
	return (len + 7) & ~(size_t)7;
}

static void
put_u32(uint8_t *to, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		to[i] = (uint8_t)(value >> (24 - 8 * i));
}

static uint32_t
get_u32(const uint8_t *from)
{
	return (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 | from[3];
}

/* Room for a header and len bytes of value, zeroed; NULL when there is none. */
static uint8_t *
put_header(struct ttlv_writer *w, uint32_t tag, enum ttlv_type type, size_t len)
{
	size_t total = TTLV_HEADER_LEN + padded(len);
	uint8_t *at = w->data + w->len;

	if (w->overflow || total > w->room - w->len) {
		w->overflow = true;
		return NULL;
	}
	memset(at, 0, total);
	put_u32(at, tag << 8 | type);
	put_u32(at + 4, (uint32_t)len);
	w->len += total;
	return at + TTLV_HEADER_LEN;
}

size_t
ttlv_begin(struct ttlv_writer *w, uint32_t tag)
{
	size_t begun = w->len;

	put_header(w, tag, TTLV_STRUCTURE, 0);
	return begun;
}

void
ttlv_end(struct ttlv_writer *w, size_t begun)
{
	if (!w->overflow)
		put_u32(w->data + begun + 4, (uint32_t)(w->len - begun - TTLV_HEADER_LEN));
}

static void
put_narrow(struct ttlv_writer *w, uint32_t tag, enum ttlv_type type, uint32_t value)
{
	uint8_t *to = put_header(w, tag, type, 4);

	if (to != NULL)
		put_u32(to, value);
}

void
ttlv_put_integer(struct ttlv_writer *w, uint32_t tag, int32_t value)
{
	put_narrow(w, tag, TTLV_INTEGER, (uint32_t)value);
}

void
ttlv_put_enum(struct ttlv_writer *w, uint32_t tag, uint32_t value)
{
	put_narrow(w, tag, TTLV_ENUM, value);
}

void
ttlv_put_wide(struct ttlv_writer *w, uint32_t tag, enum ttlv_type type, uint64_t value)
{
	uint8_t *to = put_header(w, tag, type, 8);

	if (to == NULL)
		return;
	put_u32(to, (uint32_t)(value >> 32));
	put_u32(to + 4, (uint32_t)value);
}

static void
put_data(struct ttlv_writer *w, uint32_t tag, enum ttlv_type type, const void *data, size_t len)
{
	uint8_t *to = put_header(w, tag, type, len);

	if (to != NULL && len > 0)
		memcpy(to, data, len);
}

void
ttlv_put_text(struct ttlv_writer *w, uint32_t tag, const char *text)
{
	put_data(w, tag, TTLV_TEXT, text, strlen(text));
}

void
ttlv_put_bytes(struct ttlv_writer *w, uint32_t tag, const uint8_t *data, size_t len)
{
	put_data(w, tag, TTLV_BYTES, data, len);
}

bool
ttlv_ok(const struct ttlv_writer *w)
{
	return !w->overflow;
}

size_t
ttlv_total(const uint8_t *header, size_t max)
{
	size_t len = get_u32(header + 4);

	if (max < TTLV_HEADER_LEN || len > max - TTLV_HEADER_LEN || padded(len) > max - TTLV_HEADER_LEN)
		return 0;
	return TTLV_HEADER_LEN + padded(len);
}

static bool
length_fits(enum ttlv_type type, size_t len)
{
	switch (type) {
	case TTLV_STRUCTURE:
	case TTLV_BIG:
		return len % 8 == 0;
	case TTLV_INTEGER:
	case TTLV_ENUM:
	case TTLV_INTERVAL:
		return len == 4;
	case TTLV_LONG:
	case TTLV_BOOLEAN:
	case TTLV_DATE:
		return len == 8;
	case TTLV_TEXT:
	case TTLV_BYTES:
		return true;
	}
	return false;
}

/* The item at the beginning of data; *total: its length with padding. */
static bool
item_at(const uint8_t *data, size_t len, struct ttlv *item, size_t *total)
{
	if (len < TTLV_HEADER_LEN || (*total = ttlv_total(data, len)) == 0)
		return false;
	item->tag = get_u32(data) >> 8;
	item->type = data[3];
	item->len = get_u32(data + 4);
	item->value = data + TTLV_HEADER_LEN;
	if (!length_fits(item->type, item->len))
		return false;
	for (size_t i = TTLV_HEADER_LEN + item->len; i < *total; i++)
		if (data[i] != 0)
			return false;
	return true;
}

/* Are the children whole, and theirs? */
static bool
is_whole(const struct ttlv *item, int depth)
{
	const uint8_t *at = item->value;
	size_t left = item->len, total;
	struct ttlv child;

	if (item->type != TTLV_STRUCTURE)
		return true;
	if (depth == 0)
		return false;
	for (; left > 0; at += total, left -= total)
		if (!item_at(at, left, &child, &total) || !is_whole(&child, depth - 1))
			return false;
	return true;
}

bool
ttlv_parse(const uint8_t *data, size_t len, struct ttlv *item)
{
	size_t total;

	return item_at(data, len, item, &total) && total == len && is_whole(item, TTLV_DEPTH_MAX);
}

bool
ttlv_next(const struct ttlv *structure, const struct ttlv *prev, struct ttlv *child)
{
	const uint8_t *at = prev == NULL ? structure->value : prev->value + padded(prev->len);
	size_t total;

	if (structure->type != TTLV_STRUCTURE || at == structure->value + structure->len)
		return false;
	return item_at(at, (size_t)(structure->value + structure->len - at), child, &total);
}

bool
ttlv_find(const struct ttlv *structure, uint32_t tag, enum ttlv_type type, struct ttlv *child)
{
	for (bool there = ttlv_next(structure, NULL, child); there; there = ttlv_next(structure, child, child))
		if (child->tag == tag && child->type == type)
			return true;
	return false;
}

uint32_t
ttlv_u32(const struct ttlv *item)
{
	return get_u32(item->value);
}

bool
ttlv_text(const struct ttlv *item, char *out, size_t out_len)
{
	if (item->len >= out_len || memchr(item->value, '\0', item->len) != NULL)
		return false;
	memcpy(out, item->value, item->len);
	out[item->len] = '\0';
	return true;
}
