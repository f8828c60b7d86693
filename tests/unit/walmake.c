#include "tests/unit/walmake.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "walcrypt/digest.h"
#include "walcrypt/wal.h"

static void
put(struct walmake *w, const void *data, size_t len)
{
	if (len > w->size - w->len) {
		fprintf(stderr, "walmake: more than %zu bytes\n", w->size);
		abort();
	}
	if (data != NULL)
		memcpy(w->data + w->len, data, len);
	else
		memset(w->data + w->len, 0, len);
	w->len += len;
}

/* At a page's beginning: its header; rest: what is left of a record that crosses into it. */
static void
put_header(struct walmake *w, uint16_t info, uint32_t rest)
{
	uint64_t lsn = walmake_lsn(w), sysid = WALMAKE_SYSTEM_IDENTIFIER;
	uint32_t sizes[2] = {WALMAKE_SEGMENT, WAL_PAGE_LEN};
	uint8_t header[WAL_HEADER_LEN] = {0};

	if (lsn % WALMAKE_SEGMENT == 0)
		info |= WAL_INFO_LONG;
	memcpy(header, &w->magic, 2);
	memcpy(header + 2, &info, 2);
	memcpy(header + 4, &w->tli, 4);
	memcpy(header + 8, &lsn, 8);
	memcpy(header + 16, &rest, 4);
	put(w, header, sizeof(header));
	if ((info & WAL_INFO_LONG) != 0) {
		put(w, &sysid, 8);
		put(w, sizes, 8);
	}
}

/* lost: bytes of the record behind these that never will be there. */
static void
put_body(struct walmake *w, const uint8_t *data, size_t len, size_t lost)
{
	while (len > 0) {
		size_t room = WAL_PAGE_LEN - walmake_lsn(w) % WAL_PAGE_LEN, n;

		if (walmake_lsn(w) % WAL_PAGE_LEN == 0) {
			put_header(w, 0x0001, (uint32_t)(len + lost));
			continue;
		}
		n = room < len ? room : len;
		put(w, data, n);
		data += n;
		len -= n;
	}
}

static void
begin_record(struct walmake *w)
{
	while (walmake_lsn(w) % 8 != 0)
		put(w, NULL, 1);
	if (walmake_lsn(w) % WAL_PAGE_LEN == 0)
		put_header(w, 0, 0);
}

/* source: access/xlogrecord.h */
static uint8_t *
make_record(const struct walmake *w, uint8_t rmid, uint8_t info, const void *data, size_t len, size_t *total)
{
	size_t head = len == 0 ? 0 : len < 256 ? 2 : 5;
	uint32_t tot_len = (uint32_t)(24 + head + len), xid = 7, crc, four = (uint32_t)len;
	uint8_t *r = calloc(1, tot_len);

	if (r == NULL)
		abort();
	memcpy(r, &tot_len, 4);
	memcpy(r + 4, &xid, 4);
	memcpy(r + 8, &w->last, 8);
	r[16] = info;
	r[17] = rmid;
	if (head == 2) {
		r[24] = 255;
		r[25] = (uint8_t)len;
	} else if (head == 5) {
		r[24] = 254;
		memcpy(r + 25, &four, 4);
	}
	if (len > 0)
		memcpy(r + 24 + head, data, len);
	crc = crc32c(crc32c(0, r + 24, tot_len - 24), r, 20);
	memcpy(r + 20, &crc, 4);
	*total = tot_len;
	return r;
}

uint64_t
walmake_record(struct walmake *w, uint8_t rmid, uint8_t info, const void *data, size_t len)
{
	uint64_t lsn;
	uint8_t *r;

	begin_record(w);
	lsn = walmake_lsn(w);
	r = make_record(w, rmid, info, data, len, &len);
	put_body(w, r, len, 0);
	w->records++;
	free(r);
	while (walmake_lsn(w) % 8 != 0)
		put(w, NULL, 1);
	w->last = lsn;
	return lsn;
}

uint64_t
walmake_torn(struct walmake *w, size_t len, size_t keep)
{
	uint8_t *data = malloc(len), *r;
	uint64_t lsn;

	if (data == NULL)
		abort();
	memset(data, 'T', len);
	begin_record(w);
	lsn = walmake_lsn(w);
	r = make_record(w, 10, 0, data, len, &len);
	put_body(w, r, keep, len - keep);
	free(r);
	free(data);
	while (walmake_lsn(w) % WAL_PAGE_LEN != 0)
		put(w, NULL, 1);
	put_header(w, 0x0008, 0);
	return lsn;
}

uint64_t
walmake_switch(struct walmake *w, int headers)
{
	uint64_t lsn = walmake_record(w, 0, 0x40, NULL, 0);

	while (walmake_lsn(w) % WALMAKE_SEGMENT != 0) {
		if (headers && walmake_lsn(w) % WAL_PAGE_LEN == 0)
			put_header(w, 0, 0);
		put(w, NULL, WAL_PAGE_LEN - walmake_lsn(w) % WAL_PAGE_LEN);
	}
	return lsn;
}

void
walmake_zeros(struct walmake *w, size_t len)
{
	if (len > w->len)
		put(w, NULL, len - w->len);
}

void
walmake_fill(struct walmake *w, size_t len)
{
	uint8_t data[3000];
	uint32_t state = 12345;

	while (w->len < len) {
		for (size_t i = 0; i < sizeof(data); i++) {
			state = state * 1103515245 + 12345;
			data[i] = state >> 16 & 3 ? (uint8_t)(state >> 24) : 0;
		}
		walmake_record(w, 10, 0, data, state >> 8 & 1 ? state >> 16 & 63 : (state >> 12) % sizeof(data));
	}
}

void
walmake_init(struct walmake *w, uint64_t start, size_t size)
{
	memset(w, 0, sizeof(*w));
	if ((w->data = malloc(size)) == NULL)
		abort();
	w->size = size;
	w->start = start;
	w->tli = 1;
	w->magic = 0xD110;
}

void
walmake_free(struct walmake *w)
{
	free(w->data);
	memset(w, 0, sizeof(*w));
}
