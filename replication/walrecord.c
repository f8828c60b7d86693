#include "replication/walrecord.h"

#include "walcrypt/load.h"

/* Where a record without block references has its main data, when `need` bytes of it are in its beginning; else NULL.
 * Origin and top-level xid may stand before. */
static const uint8_t *
main_data(const uint8_t *bytes, size_t have, size_t need)
{
	size_t at = WALRECORD_HEADER_LEN;

	while (at < have) {
		uint8_t id = bytes[at];
		size_t skip = id == 255 ? 2 : id == 254 ? 5 : id == 253 ? 3 : id == 252 ? 5 : 0;

		if (skip == 0)
			return NULL;
		at += skip;
		if (id >= 254)
			return at + need <= have ? bytes + at : NULL;
	}
	return NULL;
}

static int
look_xlog(const uint8_t *bytes, size_t have, struct walscan_event *e)
{
	const uint8_t *data;

	switch (e->info & 0xF0) {
	case 0x00:
		e->kind = WALSCAN_SHUTDOWN_CHECKPOINT;
		break;
	case 0x10:
		e->kind = WALSCAN_ONLINE_CHECKPOINT;
		break;
	case 0x40:
		e->kind = WALSCAN_SWITCH;
		return 1;
	case 0x90:
		e->kind = WALSCAN_END_OF_RECOVERY;
		break;
	default:
		return 0;
	}
	if ((data = main_data(bytes, have, 16)) == NULL)
		return -1;
	/* CheckPoint and xl_end_of_recovery: eight bytes, then the two timelines in both */
	if (e->kind == WALSCAN_END_OF_RECOVERY)
		e->time = (int64_t)load64(data);
	else
		e->redo = load64(data);
	e->tli = load32(data + 8);
	e->prev_tli = load32(data + 12);
	return 1;
}

/* XLOG_XACT_COMMIT and XLOG_XACT_COMMIT_PREPARED begin with the commit time */
static int
look_xact(const uint8_t *bytes, size_t have, struct walscan_event *e)
{
	uint8_t op = e->info & 0x70;
	const uint8_t *data;

	if (op != 0x00 && op != 0x30)
		return 0;
	if ((data = main_data(bytes, have, 8)) == NULL)
		return -1;
	e->kind = WALSCAN_COMMIT;
	e->time = (int64_t)load64(data);
	return 1;
}

int
walrecord_look(const uint8_t *bytes, size_t have, struct walscan_event *e)
{
	return e->rmid == 0 ? look_xlog(bytes, have, e) : e->rmid == 1 ? look_xact(bytes, have, e) : 0;
}
