#include "replication/walscan.h"

#include <stdlib.h>
#include <string.h>

#include "replication/walrecord.h"
#include "walcrypt/digest.h"
#include "walcrypt/load.h"
#include "walcrypt/pgfile.h"
#include "walcrypt/wal.h"

#define RECORD_HEADER_LEN WALRECORD_HEADER_LEN
/* source: access/xlogrecord.h, XLogRecord */
#define RECORD_CRC_OFF 20
#define RECORD_MAX_LEN (1020u * 1024 * 1024) /* XLogRecordMaxSize of 16 and later; 15 stays below it */
#define RMGR_BUILTIN_MAX 21                  /* RM_LOGICALMSG_ID in 15 to 18 */
#define RMGR_CUSTOM_MIN 128
/* source: access/xlog_internal.h */
#define INFO_CONTRECORD 0x0001
#define INFO_OVERWRITE_CONTRECORD 0x0008
/* The record's beginning: its header, and of those that are reported their first bytes of main data (with origin and
 * top-level xid before). */
#define CAPTURE_LEN 96

struct walscan {
	struct walscan_conf conf;
	uint64_t pos;
	bool begun; /* a page header was seen */
	bool ended;
	uint8_t header[WAL_LONG_HEADER_LEN];
	size_t header_got;          /* of the present page */
	size_t header_len;          /* of the present page: 24 until its flags say 40 */
	uint32_t skip;              /* body bytes left of a record that began before the scan */
	uint64_t skip_to;           /* padding, and what follows an XLOG_SWITCH */
	uint64_t record;            /* start of the record being read; 0: none */
	uint32_t len, got;          /* of it; len is 0 until 4 bytes have come */
	uint32_t crc;               /* of its bytes from 24 on */
	uint8_t bytes[CAPTURE_LEN]; /* of one that did not come as a whole */
	uint64_t last, end;         /* the last whole record */
	uint64_t records;
};

static int
bad(struct err *err, const char *what, uint64_t lsn, const char *text)
{
	char at[LSN_TEXT_LEN];

	lsn_format(at, lsn);
	err_set(err, ERR_DAMAGED, "WAL %s at %s %s", what, at, text);
	return err_sqlstate(err, "XX001");
}

static int
bad_page(const struct walscan *w, struct err *err, const char *text)
{
	return bad(err, "page", w->pos - w->pos % WAL_PAGE_LEN, text);
}

static int
bad_record(const struct walscan *w, struct err *err, const char *text)
{
	return bad(err, "record", w->record, text);
}

static uint64_t
aligned(uint64_t lsn)
{
	return (lsn + 7) & ~UINT64_C(7);
}

/* What the page's flags say of the record that crosses its beginning. */
static int
join_record(struct walscan *w, const struct wal_header *h, struct err *err)
{
	bool continues = (h->info & INFO_CONTRECORD) != 0;

	/* The rest was lost in a crash of the server and never will come: the next record stands here. */
	if ((h->info & INFO_OVERWRITE_CONTRECORD) != 0) {
		w->record = 0;
		w->skip = 0;
		return 0;
	}
	if (!w->begun) {
		w->skip = continues ? h->rem_len : 0;
		return continues && h->rem_len == 0 ? bad_page(w, err, "continues a record of no length") : 0;
	}
	if (w->record != 0 || w->skip > 0) {
		uint32_t left = w->record != 0 ? w->len - w->got : w->skip;

		if (!continues)
			return bad_page(w, err, "does not continue the record before it");
		return h->rem_len == left ? 0 : bad_page(w, err, "continues a record of another length");
	}
	return continues ? bad_page(w, err, "continues a record that did not begin") : 0;
}

static int
take_header(struct walscan *w, struct err *err)
{
	struct wal_header h;
	uint64_t page = w->pos - w->header_len; /* pos is behind the header */
	int rc;

	w->pos = page;
	switch (wal_page_look(w->header, w->header_len, &h)) {
	case WAL_PAGE_ZERO:
		w->ended = true;
		rc = 0;
		break;
	case WAL_PAGE_INVALID:
		rc = bad_page(w, err, "has no valid page header");
		break;
	case WAL_PAGE_ENCRYPTED:
		rc = bad_page(w, err, "is encrypted");
		break;
	default:
		if (h.pageaddr != page)
			rc = bad_page(w, err, "says that it is at another position");
		else if ((h.len == WAL_LONG_HEADER_LEN) != (page % w->conf.segment_size == 0))
			rc = bad_page(w, err, "has invalid info bits");
		else
			rc = join_record(w, &h, err);
		w->begun = true;
	}
	w->pos = page + w->header_len;
	return rc;
}

static size_t
eat_header(struct walscan *w, const uint8_t *data, size_t len)
{
	size_t n = w->header_len - w->header_got < len ? w->header_len - w->header_got : len;

	/* byte by byte until the flags are there: they say how long it is */
	if (w->header_got < 4 && n > 4 - w->header_got)
		n = 4 - w->header_got;
	memcpy(w->header + w->header_got, data, n);
	w->header_got += n;
	w->pos += n;
	if (w->header_got == 4 && (load16(w->header + 2) & WAL_INFO_LONG) != 0)
		w->header_len = WAL_LONG_HEADER_LEN;
	return n;
}

static int
report(const struct walscan *w, const struct walscan_event *e, struct err *err)
{
	return w->conf.on_event == NULL ? 0 : w->conf.on_event(w->conf.arg, e, err);
}

/* A record of those that say more than that they are there. */
static int
report_more(struct walscan *w, const uint8_t *bytes, struct walscan_event *e, struct err *err)
{
	int told = walrecord_look(bytes, w->len < CAPTURE_LEN ? w->len : CAPTURE_LEN, e);

	if (told < 0)
		return bad_record(w, err, "is too short for what it says to be");
	if (told > 0 && e->kind == WALSCAN_SWITCH)
		w->skip_to = w->end + (w->conf.segment_size - w->end % w->conf.segment_size) % w->conf.segment_size;
	return told > 0 ? report(w, e, err) : 0;
}

/* The record is whole: bytes are its beginning, as much as is captured of any; w->crc is of those from 24 on. */
static int
end_record(struct walscan *w, const uint8_t *bytes, struct err *err)
{
	struct walscan_event e = {.lsn = w->record, .end = aligned(w->pos), .len = w->len};

	if (crc32c(w->crc, bytes, RECORD_CRC_OFF) != load32(bytes + RECORD_CRC_OFF))
		return bad_record(w, err, "has an incorrect checksum");
	e.xid = load32(bytes + 4);
	e.info = bytes[16];
	e.rmid = bytes[17];
	w->last = w->record;
	w->end = w->skip_to = e.end;
	w->records++;
	if (walrecord_is_told(e.rmid) && report_more(w, bytes, &e, err) != 0)
		return -1;
	e.kind = WALSCAN_RECORD;
	if (report(w, &e, err) != 0)
		return -1;
	w->record = 0;
	return 0;
}

/* The header is whole: does it follow the record before? A wrong key shows here at the latest. */
static int
check_record(struct walscan *w, const uint8_t *header, struct err *err)
{
	uint64_t prev = load64(header + 8);
	uint8_t rmid = header[17];

	if (rmid > RMGR_BUILTIN_MAX && rmid < RMGR_CUSTOM_MIN)
		return bad_record(w, err, "has an invalid resource manager");
	if (w->last != 0 ? prev != w->last : prev >= w->record)
		return bad_record(w, err, "does not follow the record before it");
	return 0;
}

static int
eat_record(struct walscan *w, const uint8_t *data, size_t len, size_t *used, struct err *err)
{
	/* first the length, then the header, then the rest */
	uint32_t until = w->got < 4 ? 4 : w->got < RECORD_HEADER_LEN ? RECORD_HEADER_LEN : w->len;
	size_t n = until - w->got < len ? until - w->got : len;

	if (w->got < CAPTURE_LEN)
		memcpy(w->bytes + w->got, data, n < CAPTURE_LEN - w->got ? n : CAPTURE_LEN - w->got);
	if (w->got >= RECORD_HEADER_LEN)
		w->crc = crc32c(w->crc, data, n);
	w->got += (uint32_t)n;
	w->pos += n;
	*used = n;
	if (w->got < until)
		return 0;
	if (until == 4) {
		if ((w->len = load32(w->bytes)) == 0) {
			w->ended = true;
			w->record = 0;
			return 0;
		}
		return w->len < RECORD_HEADER_LEN || w->len > RECORD_MAX_LEN ? bad_record(w, err, "has an invalid length") : 0;
	}
	if (until == RECORD_HEADER_LEN && check_record(w, w->bytes, err) != 0)
		return -1;
	return w->got == w->len ? end_record(w, w->bytes, err) : 0;
}

/* The records that begin here and are there as a whole: most are, and need no state. With what aligns the next one. */
static int
eat_whole(struct walscan *w, const uint8_t *data, size_t len, size_t *used, struct err *err)
{
	*used = 0;
	while (w->skip_to <= w->pos && len - *used >= RECORD_HEADER_LEN) {
		const uint8_t *bytes = data + *used;
		size_t left = len - *used, gap;
		uint32_t record_len = load32(bytes);

		if (record_len < RECORD_HEADER_LEN || record_len > left)
			break;
		w->record = w->pos;
		w->len = record_len;
		if (check_record(w, bytes, err) != 0)
			return -1;
		w->crc = crc32c(0, bytes + RECORD_HEADER_LEN, record_len - RECORD_HEADER_LEN);
		w->pos += record_len;
		if (end_record(w, bytes, err) != 0)
			return -1;
		gap = w->end - w->pos < left - record_len ? w->end - w->pos : left - record_len;
		w->pos += gap;
		*used += record_len + gap;
	}
	return 0;
}

/* What comes behind a page's header, at most to the page's end. */
static int
eat_body(struct walscan *w, const uint8_t *data, size_t len, size_t *used, struct err *err)
{
	if (w->skip > 0) {
		*used = w->skip < len ? w->skip : len;
		w->skip -= (uint32_t)*used;
		w->pos += *used;
		if (w->skip == 0)
			w->skip_to = aligned(w->pos);
		return 0;
	}
	if (w->record == 0 && w->skip_to > w->pos) {
		*used = w->skip_to - w->pos < len ? w->skip_to - w->pos : len;
		w->pos += *used;
		return 0;
	}
	if (w->record == 0) {
		if (eat_whole(w, data, len, used, err) != 0)
			return -1;
		if (*used > 0)
			return 0;
		w->record = w->pos;
		w->got = w->len = w->crc = 0;
	}
	return eat_record(w, data, len, used, err);
}

bool
walscan_after_switch(const struct walscan *w)
{
	return w->record == 0 && w->skip == 0 && w->skip_to >= w->pos + WAL_PAGE_LEN;
}

int
walscan_push(struct walscan *w, const uint8_t *data, size_t len, struct err *err)
{
	while (len > 0 && !w->ended) {
		size_t off = w->pos % WAL_PAGE_LEN, used = 0, room = WAL_PAGE_LEN - off < len ? WAL_PAGE_LEN - off : len;

		if (off == 0) {
			w->header_got = 0;
			/* the rest after a switch is zeros, or, when power was lost before they were written, what the file held */
			w->header_len = walscan_after_switch(w) ? 0 : WAL_HEADER_LEN;
		}
		if (w->header_got < w->header_len) {
			used = eat_header(w, data, room);
			if (w->header_got == w->header_len && take_header(w, err) != 0)
				return -1;
		} else if (eat_body(w, data, room, &used, err) != 0)
			return -1;
		data += used;
		len -= used;
	}
	w->pos += len;
	return w->ended ? 1 : 0;
}

struct walscan *
walscan_new(const struct walscan_conf *conf, uint64_t start, struct err *err)
{
	struct walscan *w;

	if (start % WAL_PAGE_LEN != 0 || conf->segment_size < WAL_PAGE_LEN ||
	    (conf->segment_size & (conf->segment_size - 1)) != 0) {
		err_set(err, ERR_FAILED, "a WAL scan cannot start at byte %llu of a segment of %u bytes",
		        (unsigned long long)start, (unsigned)conf->segment_size);
		return NULL;
	}
	if ((w = calloc(1, sizeof(*w))) == NULL) {
		err_nomem(err);
		return NULL;
	}
	w->conf = *conf;
	w->pos = start;
	return w;
}

void
walscan_free(struct walscan *w)
{
	free(w);
}

uint64_t
walscan_position(const struct walscan *w)
{
	return w->pos;
}

uint64_t
walscan_end(const struct walscan *w)
{
	return w->end;
}

uint64_t
walscan_last(const struct walscan *w)
{
	return w->last;
}

uint64_t
walscan_records(const struct walscan *w)
{
	return w->records;
}
