#include "storage/walchange.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/journal.h"
#include "common/log.h"
#include "storage/process.h"
#include "storage/raw.h"
#include "storage/run.h"
#include "storage/unlock.h"
#include "walcrypt/pgfile.h"

#define WAL_DIR "pg_wal"
#define SCAN_LEN (32 * WAL_PAGE_LEN)

/* Key id of the epoch that an encrypted page was written under. */
static int
page_key_id(const uint8_t *image, uint8_t id[static KEY_ID_LEN], struct err *err)
{
	const struct keyset_epoch *epoch;
	struct wal_header h;

	memset(id, 0, KEY_ID_LEN);
	if (wal_page_look(image, WAL_PAGE_LEN, &h) != WAL_PAGE_ENCRYPTED)
		return 0;
	if ((epoch = keyset_wal_read(keys.set, h.epoch7)) == NULL)
		return err_set(err, ERR_WRONG_KEY, "the keyset has no WAL key of epoch %u", h.epoch7);
	return key_id(epoch->key.bytes, (size_t)epoch->key.len, id, err);
}

int
walchange_page(int fd, const struct file *f, off_t off, const uint8_t image[static WAL_PAGE_LEN], struct err *err)
{
	bool durable = process_fsync();
	struct journal_page entry = {.system_identifier = keyset_system_identifier(keys.set), .offset = (uint64_t)off};
	ssize_t n;

	snprintf(entry.file, sizeof(entry.file), "%08X%08X%08X", f->wal.tli, f->wal.log, f->wal.seg);
	memcpy(entry.page, image, WAL_PAGE_LEN);
	if (page_key_id(image, entry.key_id, err) != 0 || journal_begin(WAL_DIR, &entry, durable, err) != 0)
		return -1;
	run_change_begin();
	n = raw_pwrite_units(fd, image, WAL_PAGE_LEN, off, WAL_PAGE_LEN);
	run_change_end();
	if (n != WAL_PAGE_LEN || (durable && raw_fdatasync(fd) != 0))
		return err_os(err, errno, "could not write page %lld of WAL segment %s", (long long)(off / WAL_PAGE_LEN),
		              entry.file);
	return journal_end(WAL_DIR, durable, err);
}

int
walchange_needed(int fd, off_t off, const uint8_t image[static WAL_PAGE_LEN], struct err *err)
{
	static uint8_t page[WAL_PAGE_LEN] __attribute__((aligned(4096)));
	struct wal_header old, new;
	ssize_t n = raw_pread_full(fd, page, WAL_PAGE_LEN, off);

	if (n < 0)
		return err_os(err, errno, "could not read the WAL page that is to be replaced");
	if (n < WAL_HEADER_LEN || wal_page_look(image, WAL_PAGE_LEN, &new) != WAL_PAGE_ENCRYPTED)
		return 0;
	if (wal_page_look(page, (size_t)n, &old) != WAL_PAGE_ENCRYPTED && old.magic == 0)
		return 0;
	return old.magic == new.magic &&old.tli == new.tli &&old.pageaddr == new.pageaddr &&
	       (!old.encrypted || old.generation != new.generation || old.epoch7 != new.epoch7);
}

/* Make zero the pages of [from, end of the file) whose address is that of their place; returns how many, or -1. */
static int
clear_stale(int fd, uint64_t segno, off_t segment_size, off_t from, struct err *err)
{
	static uint8_t buf[SCAN_LEN] __attribute__((aligned(4096)));
	static const uint8_t zero[WAL_PAGE_LEN] __attribute__((aligned(4096)));
	int found = 0;

	for (off_t at = from; at < segment_size; at += SCAN_LEN) {
		ssize_t n = raw_pread_full(fd, buf, SCAN_LEN, at);

		if (n < 0)
			return err_os(err, errno, "could not read WAL segment");
		for (ssize_t i = 0; i + WAL_PAGE_LEN <= n; i += WAL_PAGE_LEN) {
			uint64_t lsn = segno * (uint64_t)segment_size + (uint64_t)(at + i);
			enum wal_page_kind kind;
			struct wal_header h;

			kind = wal_page_look(buf + i, WAL_PAGE_LEN, &h);
			if ((kind != WAL_PAGE_CLEAR && kind != WAL_PAGE_ENCRYPTED) || h.pageaddr != lsn)
				continue;
			if (raw_pwrite_units(fd, zero, WAL_PAGE_LEN, at + i, WAL_PAGE_LEN) != WAL_PAGE_LEN)
				return err_os(err, errno, "could not clear a WAL page left over from a crash");
			found++;
		}
	}
	if (found > 0 && process_fsync() && raw_fdatasync(fd) != 0)
		return err_os(err, errno, "could not flush WAL segment");
	return found;
}

/* In this segment behind `from`, and in following ones until one has none. */
static int
clear_all_stale(int fd, const struct file *f, off_t from, struct err *err)
{
	char path[sizeof(WAL_DIR) + 25], *name = path + sizeof(WAL_DIR);
	struct pgfile pf = {.tli = f->wal.tli, .log = f->wal.log, .seg = f->wal.seg};
	struct stat st;
	uint64_t segno;
	int n, other;

	if (fstat(fd, &st) != 0 || st.st_size < WAL_PAGE_LEN || st.st_size > UINT32_MAX)
		return err_set(err, ERR_DAMAGED, "WAL segment has no sensible size");
	segno = pgfile_wal_segno(&pf, (uint32_t)st.st_size);
	if ((n = clear_stale(fd, segno, st.st_size, from, err)) < 0)
		return -1;
	memcpy(path, WAL_DIR "/", sizeof(WAL_DIR));
	do {
		pgfile_wal_name(name, f->wal.tli, ++segno, (uint32_t)st.st_size);
		if ((other = raw_open(path, O_RDWR | O_CLOEXEC, 0)) < 0)
			return errno == ENOENT ? 0 : err_os(err, errno, "could not open \"%s\"", path);
		n = clear_stale(other, segno, st.st_size, 0, err);
		raw_close(other);
	} while (n > 0);
	return n;
}

int
walchange_first_write(int fd, const struct file *f, off_t off, const uint8_t *pages, size_t len, struct err *err)
{
	int rc = 0;

	(void)len;
	if (atomic_load(&run->first_done))
		return 0;
	run_lock();
	if (!atomic_load(&run->first_done)) {
		rc = clear_all_stale(fd, f, off + WAL_PAGE_LEN, err);
		if (rc == 0)
			rc = walchange_needed(fd, off, pages, err);
		if (rc > 0)
			rc = walchange_page(fd, f, off, pages, err);
		if (rc == 0)
			atomic_store(&run->first_done, true);
	}
	run_unlock();
	return rc;
}

/* The page at off, which holds WAL up to byte `used` of it, under this run's generation. Caller holds run_lock. */
static int
move_page(int fd, const struct file *f, off_t off, uint64_t pageaddr, size_t used, struct err *err)
{
	static uint8_t page[WAL_PAGE_LEN] __attribute__((aligned(4096)));
	enum wal_page_kind kind;
	struct wal_header h;

	if (raw_pread_full(fd, page, WAL_PAGE_LEN, off) != WAL_PAGE_LEN)
		return err_os(err, errno, "could not read the last WAL page");
	kind = wal_page_look(page, WAL_PAGE_LEN, &h);
	if ((kind != WAL_PAGE_CLEAR && kind != WAL_PAGE_ENCRYPTED) || h.pageaddr != pageaddr || used < h.len)
		return 0;
	if (h.encrypted && h.generation == atomic_load(&run->generation))
		return 0;
	if (wal_page_decrypt(keys.wal, page, page, err) != 0)
		return -1;
	/* What lies beyond the end of WAL is not this run's to write: the server goes on there with other bytes (W1). */
	memset(page + used, 0, WAL_PAGE_LEN - used);
	if (wal_page_encrypt(keys.wal, atomic_load(&run->generation), true, page, page, err) != 0)
		return -1;
	return walchange_page(fd, f, off, page, err);
}

int
walchange_move_tail(struct err *err)
{
	const int *segment_size = process_symbol("wal_segment_size");
	char path[sizeof(WAL_DIR) + 25];
	struct file f = {.class = FILE_WAL};
	uint32_t tli = 0;
	uint64_t lsn = process_insert_lsn(&tli), segno;
	size_t used = lsn % WAL_PAGE_LEN;
	struct pgfile pf;
	int fd, rc = 0;

	if (lsn == 0 || used == 0 || segment_size == NULL || tli == 0)
		return 0;
	segno = lsn / (uint32_t)*segment_size;
	memcpy(path, WAL_DIR "/", sizeof(WAL_DIR));
	pgfile_wal_name(path + sizeof(WAL_DIR), tli, segno, (uint32_t)*segment_size);
	pgfile_parse(path, false, &pf);
	f.wal.tli = pf.tli;
	f.wal.log = pf.log;
	f.wal.seg = pf.seg;
	if ((fd = raw_open(path, O_RDWR | O_CLOEXEC, 0)) < 0)
		return err_os(err, errno, "could not open \"%s\"", path);
	run_lock();
	if (!atomic_load(&run->first_done))
		rc = move_page(fd, &f, (off_t)(lsn % (uint32_t)*segment_size) - (off_t)used, lsn - used, used, err);
	run_unlock();
	raw_close(fd);
	return rc;
}

static bool
journal_known(const struct journal_page *page, void *arg)
{
	static const uint8_t none[KEY_ID_LEN];
	uint64_t own = keyset_system_identifier(keys.set);
	uint8_t id[KEY_ID_LEN];
	struct err err;

	(void)arg;
	if (page->system_identifier != own)
		return false;
	if (memcmp(page->key_id, none, sizeof(none)) == 0)
		return true;
	for (size_t i = 0; i < keyset_nepochs(keys.set); i++) {
		const struct keyset_epoch *epoch = keyset_epoch_at(keys.set, i);

		if (key_id(epoch->key.bytes, (size_t)epoch->key.len, id, &err) == 0 &&
		    memcmp(id, page->key_id, sizeof(id)) == 0)
			return true;
	}
	return false;
}

int
walchange_replay(struct err *err)
{
	bool done;

	if (process.program != PROGRAM_SERVER)
		return 0;
	if (access(WAL_DIR, F_OK) != 0)
		return 0;
	if (journal_replay(WAL_DIR, journal_known, NULL, &done, err) != 0)
		return -1;
	if (done)
		log_info("a WAL page was written again from the journal");
	return 0;
}
