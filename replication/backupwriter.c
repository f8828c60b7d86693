#include <stdlib.h>
#include <string.h>

#include "replication/backupstream.h"
#include "replication/message.h"
#include "replication/tar.h"

struct backupwriter {
	struct stage base;
	struct buffer *out;
	size_t high;
	uint64_t begun, end; /* of the last message with data: places in out */
};

/* Of a CopyData message, before the data. */
#define HEAD_LEN (MESSAGE_HEAD_LEN + 1)

/* Does the last message take len bytes more? Nothing may have come behind it, and its length must be ours to change. */
static bool
grows(const struct backupwriter *w, size_t len)
{
	return w->end == buffer_end(w->out) && buffer_at(w->out, w->begun) != NULL &&
	       w->end - w->begun - HEAD_LEN + len <= BACKUPSTREAM_DATA_MAX;
}

uint8_t *
backupwriter_room(struct stage *writer, size_t len)
{
	struct backupwriter *w = (struct backupwriter *)writer;
	size_t head_len = grows(w, len) ? 0 : HEAD_LEN;
	uint8_t *room = len <= BACKUPSTREAM_DATA_MAX ? buffer_reserve(w->out, head_len + len) : NULL;

	return room == NULL ? NULL : room + head_len;
}

static int
put_data(struct backupwriter *w, const uint8_t *data, size_t len, struct err *err)
{
	while (len > 0) {
		size_t n = len < BACKUPSTREAM_DATA_MAX ? len : BACKUPSTREAM_DATA_MAX;

		if (!grows(w, n)) {
			w->begun = buffer_end(w->out);
			message_begin(w->out, 'd');
			buffer_put_u8(w->out, 'd');
		}
		if (data == buffer_data(w->out) + buffer_len(w->out))
			buffer_commit(w->out, n); /* made in backupwriter_room */
		else
			buffer_put(w->out, data, n);
		if (message_end(w->out, (size_t)(w->begun - w->out->front), err) != 0)
			return -1;
		w->end = buffer_end(w->out);
		data += n;
		len -= n;
	}
	return 0;
}

static int
put_mark(struct backupwriter *w, const struct chunk *c, struct err *err)
{
	size_t begun = message_begin(w->out, 'd');

	if (c->kind == CHUNK_ARCHIVE) {
		buffer_put_u8(w->out, 'n');
		buffer_put_str(w->out, c->archive->name);
		buffer_put_str(w->out, c->archive->path);
	} else if (c->kind == CHUNK_PROGRESS) {
		buffer_put_u8(w->out, 'p');
		buffer_put_u64(w->out, c->pos);
	} else
		buffer_put_u8(w->out, 'm');
	return message_end(w->out, begun, err);
}

static int
backupwriter_push(struct stage *stage, struct chunk *c, struct err *err)
{
	struct backupwriter *w = (struct backupwriter *)stage;
	int rc;

	switch (c->kind) {
	case CHUNK_TAR:
	case CHUNK_MANIFEST:
		rc = put_data(w, c->data, c->len, err);
		break;
	case CHUNK_ARCHIVE:
	case CHUNK_PROGRESS:
	case CHUNK_MANIFEST_BEGIN:
		rc = put_mark(w, c, err);
		break;
	case CHUNK_ARCHIVE_END: /* has no message */
		rc = 0;
		break;
	default:
		return err_set(err, ERR_FAILED, "a base backup cannot carry a chunk of kind %d", (int)c->kind);
	}
	return rc != 0 ? -1 : buffer_len(w->out) > w->high;
}

static int
backupwriter_finish(struct stage *stage, struct err *err)
{
	(void)stage;
	(void)err;
	return 0;
}

static void
backupwriter_free(struct stage *stage)
{
	free(stage);
}

static const struct stage_ops backupwriter_ops = {backupwriter_push, backupwriter_finish, backupwriter_free};

struct stage *
backupwriter_new(struct buffer *out, size_t high, struct err *err)
{
	struct backupwriter *w = calloc(1, sizeof(*w));

	if (w == NULL) {
		err_nomem(err);
		return NULL;
	}
	w->base.ops = &backupwriter_ops;
	w->out = out;
	w->high = high;
	return &w->base;
}
