#include "ctl/upgrade.h"

#include <getopt.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/datadir.h"
#include "common/path.h"
#include "ctl/layer.h"
#include "keymgr/keydir.h"
#include "walcrypt/key.h"

#define FIRST_MAJOR_WITH_STATISTICS 18

struct request {
	const char *old, *new;
	bool clone, no_statistics, check;
};

/* pg_upgrade's options, option.c of PostgreSQL 15 to 18; what is not known is left for it to complain about. */
enum { OPTION_CLONE = 256, OPTION_NO_STATISTICS, OPTION_OTHER };
static const struct option option_names[] = {{"old-datadir", required_argument, NULL, 'd'},
                                             {"new-datadir", required_argument, NULL, 'D'},
                                             {"old-bindir", required_argument, NULL, 'b'},
                                             {"new-bindir", required_argument, NULL, 'B'},
                                             {"old-options", required_argument, NULL, 'o'},
                                             {"new-options", required_argument, NULL, 'O'},
                                             {"old-port", required_argument, NULL, 'p'},
                                             {"new-port", required_argument, NULL, 'P'},
                                             {"username", required_argument, NULL, 'U'},
                                             {"socketdir", required_argument, NULL, 's'},
                                             {"jobs", required_argument, NULL, 'j'},
                                             {"check", no_argument, NULL, 'c'},
                                             {"link", no_argument, NULL, 'k'},
                                             {"retain", no_argument, NULL, 'r'},
                                             {"verbose", no_argument, NULL, 'v'},
                                             {"no-sync", no_argument, NULL, 'N'},
                                             {"clone", no_argument, NULL, OPTION_CLONE},
                                             {"no-statistics", no_argument, NULL, OPTION_NO_STATISTICS},
                                             {"copy", no_argument, NULL, OPTION_OTHER},
                                             {"copy-file-range", no_argument, NULL, OPTION_OTHER},
                                             {"swap", no_argument, NULL, OPTION_OTHER},
                                             {"sync-method", required_argument, NULL, OPTION_OTHER},
                                             {"set-char-signedness", required_argument, NULL, OPTION_OTHER},
                                             {NULL, 0, NULL, 0}};

static int
request_parse(const char *const *args, struct request *r, struct err *err)
{
	size_t n = 0;
	char **copy; /* getopt_long sorts what it is given */
	int c;

	memset(r, 0, sizeof(*r));
	while (args[n] != NULL)
		n++;
	if ((copy = calloc(n + 1, sizeof(*copy))) == NULL)
		return err_nomem(err);
	memcpy(copy, args, n * sizeof(*copy));
	opterr = 0;
	optind = 0;
	while ((c = getopt_long((int)n, copy, "b:B:cd:D:j:kNo:O:p:P:rs:U:v", option_names, NULL)) != -1) {
		if (c == 'd')
			r->old = optarg;
		else if (c == 'D')
			r->new = optarg;
		r->check = r->check || c == 'c';
		r->clone = r->clone || c == OPTION_CLONE;
		r->no_statistics = r->no_statistics || c == OPTION_NO_STATISTICS;
	}
	free(copy);
	if (r->old == NULL)
		r->old = getenv("PGDATAOLD");
	if (r->new == NULL)
		r->new = getenv("PGDATANEW");
	return 0;
}

/* exec's directory is the one whose keys pg_resetwal will use. */
static int
check_new(const char *datadir, const struct request *r, struct err *err)
{
	char path[PATH_MAX], real[PATH_MAX], given[PATH_MAX];

	if (r->new == NULL)
		return setenv("PGDATANEW", datadir, 1) == 0 ? 0 : err_nomem(err);
	if (path_absolute(path, r->new, err) != 0)
		return -1;
	if (realpath(path, given) == NULL || realpath(datadir, real) == NULL || strcmp(given, real) == 0)
		return 0;
	err_set(err, ERR_USAGE, "pg_upgrade's new cluster is \"%s\", but exec was given \"%s\"", r->new, datadir);
	return err_hint(err, "Give the new data directory to both.");
}

static int
check_way(const char *datadir, const struct request *r, struct err *err)
{
	int major;

	if (r->clone) {
		err_set(err, ERR_REFUSED, "pg_upgrade --clone is not supported on encrypted clusters");
		return err_hint(err, "Use --copy, --link, or --copy-file-range and --swap where pg_upgrade has them.");
	}
	if (datadir_supported(datadir, &major, err) != 0)
		return -1;
	if (major < FIRST_MAJOR_WITH_STATISTICS || r->no_statistics || r->check)
		return 0;
	err_set(err, ERR_REFUSED, "pg_upgrade would write statistics, which hold values of rows, to clear files");
	return err_hint(err, "Give it --no-statistics, and run \"vacuumdb --all --analyze-in-stages\" afterwards.");
}

static int
compare_keys(struct source *s, const char *old_keydir, const char *new_keydir, struct err *err)
{
	uint8_t old_id[KEY_ID_LEN], new_id[KEY_ID_LEN];
	struct keyset *old = NULL, *new = NULL;
	const struct data_key *a, *b;
	struct kek *kek;
	int rc = -1;

	if ((kek = source_fetch(s, new_keydir, err)) == NULL)
		return -1;
	if ((old = source_open_with(s, old_keydir, kek, err)) == NULL || (new = keydir_open(new_keydir, kek, err)) == NULL)
		goto done;
	a = keyset_relation(old);
	b = keyset_relation(new);
	if (key_id(a->bytes, (size_t)a->len, old_id, err) != 0 || key_id(b->bytes, (size_t)b->len, new_id, err) != 0)
		goto done;
	if (memcmp(old_id, new_id, sizeof(old_id)) == 0)
		rc = 0;
	else {
		err_set(err, ERR_REFUSED, "the new cluster has another relation key than the old one");
		err_detail(err, "pg_upgrade takes relation files over as they are; under another key nobody could read them.");
		err_hint(err, "Make the new cluster with \"walcrypt-ctl initdb --copy-encryption-keys OLD-DIRECTORY\".");
	}
done:
	keyset_free(old);
	keyset_free(new);
	kek_free(kek);
	return rc;
}

int
upgrade_check(struct source *s, const char *datadir, const char *const *args, struct err *err)
{
	char old[PATH_MAX], old_keydir[PATH_MAX], new_keydir[PATH_MAX];
	struct request r;

	if (args[1] != NULL && (strcmp(args[1], "--help") == 0 || strcmp(args[1], "-?") == 0 ||
	                        strcmp(args[1], "--version") == 0 || strcmp(args[1], "-V") == 0))
		return 0;
	if (request_parse(args, &r, err) != 0 || check_new(datadir, &r, err) != 0)
		return -1;
	if (r.old == NULL)
		return 0; /* pg_upgrade asks for it */
	if (check_way(datadir, &r, err) != 0 || path_absolute(old, r.old, err) != 0 ||
	    datadir_keydir(datadir, new_keydir, err) != 0)
		return -1;
	if (datadir_keydir(old, old_keydir, err) != 0)
		return err_hint(err, "Both clusters have to be encrypted, under one relation key.");
	return compare_keys(s, old_keydir, new_keydir, err);
}
