/* What must hold before the first byte of a directory is re-encrypted. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fileio.h"
#include "common/journal.h"
#include "common/path.h"
#include "ctl/page_look.h"
#include "ctl/reencrypt.h"
#include "walcrypt/page.h"
#include "walcrypt/wal.h"

int
reencrypt_check_stopped(const char *datadir, const struct datadir_control *control, struct err *err)
{
	char path[PATH_MAX];

	if (datadir_in_use(datadir)) {
		err_set(err, ERR_REFUSED, "a server runs in data directory \"%s\"", datadir);
		return err_hint(err, "Stop it first: pg_ctl stop -m fast");
	}
	if (control->state != DATADIR_SHUTDOWNED && control->state != DATADIR_SHUTDOWNED_IN_RECOVERY) {
		err_set(err, ERR_REFUSED, "data directory \"%s\" was not shut down cleanly: its state is \"%s\"", datadir,
		        datadir_state_name(control->state));
		return err_hint(err, "Start the server, let it recover, and stop it.");
	}
	if (path_format(path, err, "%s/pg_wal/" JOURNAL_NAME, datadir) != 0)
		return -1;
	if (access(path, F_OK) == 0) {
		err_set(err, ERR_REFUSED, "a WAL page of data directory \"%s\" was being changed when its server ended",
		        datadir);
		return err_hint(err, "Start the server, let it recover, and stop it.");
	}
	return 0;
}

/* The shared catalogs, whole: if pages there are none under the old key, it is not the key, or the directory is not
 * what it seems. Damage elsewhere is carried over, page by page. */
static int
check_catalog(const struct reencrypt *r, const struct reencrypt_entry *e, struct page_cipher *from, struct err *err)
{
	uint8_t page[PAGE_LEN];
	char path[PATH_MAX];
	struct page_at at = e->is.at;
	ssize_t n;
	int fd;

	if (path_format(path, err, "%s/%s", r->datadir, e->path) != 0)
		return -1;
	if ((fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
		return err_os(err, errno, "could not open file \"%s\"", path);
	for (uint64_t offset = 0; (n = fileio_pread(fd, page, PAGE_LEN, offset)) == PAGE_LEN;
	     offset += PAGE_LEN, at.block++) {
		if (page_is_zero(page))
			continue;
		if (from != NULL && page_decrypt(from, &at, page, page, err) != 0)
			break;
		if (page_look(page, at.block, r->control.checksum_version != 0) == PAGE_LOOKS_GOOD)
			continue;
		err_set(err, ERR_REFUSED, "block %u of \"%s\" is damaged, or under another key", at.block, path);
		err_hint(err, r->from == NULL
		                  ? "If the directory is encrypted, restore its pg_cryptokeys; else see pg_checksums."
		                  : "See what \"walcrypt-ctl verify\" says.");
		break;
	}
	if (n < 0)
		err_os(err, errno, "could not read file \"%s\"", path);
	close(fd);
	return n == PAGE_LEN || n < 0 ? -1 : 0;
}

/* Every WAL page that belongs to its file must be readable, by its header. */
static int
check_wal(const struct reencrypt *r, const struct reencrypt_entry *e, struct err *err)
{
	uint64_t expected = pgfile_wal_segno(&e->is, r->control.wal_segment_size) * r->control.wal_segment_size;
	uint8_t header[WAL_LONG_HEADER_LEN];
	char path[PATH_MAX];
	enum wal_page_kind kind;
	struct wal_header h;
	int fd, result = 0;
	ssize_t n;

	if (path_format(path, err, "%s/%s", r->datadir, e->path) != 0)
		return -1;
	if ((fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
		return err_os(err, errno, "could not open file \"%s\"", path);
	for (uint64_t offset = 0; result == 0 && offset < e->len; offset += WAL_PAGE_LEN) {
		if ((n = fileio_pread(fd, header, sizeof(header), offset)) < 0)
			result = err_os(err, errno, "could not read file \"%s\"", path);
		if (n < (ssize_t)sizeof(header))
			break;
		kind = wal_page_look(header, sizeof(header), &h);
		if (kind != WAL_PAGE_ENCRYPTED || h.pageaddr != expected + offset || h.tli > e->is.tli)
			continue;
		if (r->from == NULL) {
			err_set(err, ERR_REFUSED, "\"%s\" holds encrypted WAL, but the data directory has no keys", path);
			result = err_hint(err, "If the directory is encrypted, restore its pg_cryptokeys.");
		} else if (keyset_wal_read(r->from, h.epoch7) == NULL) {
			err_set(err, ERR_WRONG_KEY, "the keyset has no WAL key of epoch %u (modulo %d), which \"%s\" needs",
			        h.epoch7, KEYSET_MAX_EPOCHS, path);
			result = err_hint(err, "Restore the key directory that holds all epochs of this WAL.");
		}
	}
	close(fd);
	return result;
}

int
reencrypt_check_files(const struct reencrypt *r, struct err *err)
{
	struct page_cipher *from = NULL;
	int result = 0;

	if (r->from != NULL && (from = page_cipher_new(keyset_relation(r->from), err)) == NULL)
		return -1;
	/* WAL first: its headers tell which key is missing */
	for (size_t i = 0; result == 0 && i < r->list.n; i++)
		if (!r->list.entry[i].has_new && r->list.entry[i].is.kind == PGFILE_WAL)
			result = check_wal(r, &r->list.entry[i], err);
	for (size_t i = 0; result == 0 && i < r->list.n; i++)
		if (!r->list.entry[i].has_new && strncmp(r->list.entry[i].path, "global/", 7) == 0)
			result = check_catalog(r, &r->list.entry[i], from, err);
	page_cipher_free(from);
	return result;
}
