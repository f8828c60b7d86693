#include "storage/walsource.h"

#include <link.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "storage/process.h"
#include "storage/report.h"
#include "storage/textpatch.h"

#define FIRST_MAJOR_WITH_BUFFERS 17

static bool clear_mode;

bool
walsource_clear(void)
{
	return clear_mode;
}

/* Machine code of x86-64. */
#define CALL_OPCODE 0xe8
#define CALL_LEN 5

struct call_search {
	const uint8_t *target;
	bool found;
};

/* Does the program's text call target? Not the libraries': the program comes first. */
static int
find_call(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct call_search *search = arg;

	(void)size;
	for (int i = 0; i < info->dlpi_phnum && !search->found; i++) {
		const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
		const uint8_t *text = (const uint8_t *)(info->dlpi_addr + ph->p_vaddr), *end = text + ph->p_filesz;

		if (ph->p_type != PT_LOAD || (ph->p_flags & (PF_X | PF_R)) != (PF_X | PF_R))
			continue;
		if (search->target < text || search->target >= end)
			continue;
		while (end - text >= CALL_LEN && (text = memchr(text, CALL_OPCODE, (size_t)(end - text - CALL_LEN + 1)))) {
			int32_t distance;

			memcpy(&distance, text + 1, sizeof(distance));
			if ((intptr_t)distance == search->target - (text + CALL_LEN)) {
				search->found = true;
				break;
			}
			text++;
		}
	}
	return 1;
}

/* Stands in for WALReadFromBuffers: so many bytes were there. */
static size_t
no_bytes(char *to, uint64_t start, size_t count, uint32_t tli)
{
	(void)to;
	(void)start;
	(void)count;
	(void)tli;
	return 0;
}

static int
read_files(struct err *err)
{
	struct call_search search = {.target = process_symbol("WALReadFromBuffers")};
	static struct textpatch buffers;

	if (process_major() < FIRST_MAJOR_WITH_BUFFERS)
		return 0;
	if (search.target != NULL)
		dl_iterate_phdr(find_call, &search);
	if (!search.found) {
		err_set(err, ERR_REFUSED, "walsenders of this server cannot be made to read WAL from files");
		return err_detail(err, "Its program does not call WALReadFromBuffers, so it may hold it inlined.");
	}
	if (textpatch_set(&buffers, "WALReadFromBuffers", (void (*)(void))no_bytes, err) != 0)
		return err_context(err, "walsenders of this server cannot be made to read WAL from files");
	return 0;
}

/* libpq-be.h; NULL in builds without TLS and for connections outside it. */
static const char *(*tls_version)(void *port);
static void (*next_hook)(void *port, int status);

/* The server's hook behind authentication. */
static void
on_authentication(void *port, int status)
{
	const bool *am_walsender = process_symbol("am_walsender");
	struct err err;

	if (next_hook != NULL)
		next_hook(port, status);
	if (status != 0 || !*am_walsender || tls_version(port) != NULL)
		return;
	err_set(&err, ERR_REFUSED, "replication connections to this server must use TLS");
	err_detail(&err, "It sends clear WAL: it was started with WALCRYPT_WALSENDER=clear.");
	err_hint(&err, "Connect over TCP with sslmode=require or stricter.");
	err_sqlstate(&err, "28000");
	report(REPORT_FATAL, &err);
	process_die(&err);
}

static int
send_clear(struct err *err)
{
	void (**hook)(void *, int) = process_symbol("ClientAuthentication_hook");
	const char *ssl = process_setting("ssl");

	tls_version = (const char *(*)(void *))process_symbol("be_tls_get_version");
	if (hook == NULL || tls_version == NULL || ssl == NULL || strcmp(ssl, "on") != 0) {
		err_set(err, ERR_REFUSED, "WALCRYPT_WALSENDER=clear needs a server with TLS");
		return err_hint(err, tls_version == NULL ? "This one was built without it." : "Set ssl = on.");
	}
	next_hook = *hook;
	*hook = on_authentication;
	clear_mode = true;
	return 0;
}

int
walsource_init(struct err *err)
{
	const char *mode = getenv("WALCRYPT_WALSENDER"), *senders = process_setting("max_wal_senders");

	if (mode != NULL && strcmp(mode, "files") != 0 && strcmp(mode, "clear") != 0 && *mode != '\0') {
		err_set(err, ERR_USAGE, "WALCRYPT_WALSENDER is \"%s\"", mode);
		return err_hint(err, "It may be \"files\" or \"clear\".");
	}
	if (!process_under_postmaster() || (senders != NULL && strcmp(senders, "0") == 0))
		return 0; /* there are none */
	if (mode != NULL && strcmp(mode, "clear") == 0)
		return send_clear(err);
	if (read_files(err) == 0)
		return 0;
	return err_hint(err, "Set WALCRYPT_WALSENDER=clear for the server (docs/storage.md), or max_wal_senders = 0.");
}
