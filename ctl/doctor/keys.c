/* keys: key directories, and whether their cluster keys come. */
#include <string.h>

#include "common/clock.h"
#include "common/path.h"
#include "ctl/doctor/checks.h"
#include "ctl/keydir_report.h"
#include "ctl/source.h"
#include "keymgr/keydir.h"
#include "keymgr/keystore.h"

#define OLD_DAYS 365

void
doctor_keys(struct findings *f, const char *config, const char *path, const char *datadir, const char *keyset)
{
	struct source source = {0};
	struct keydir_info info;
	struct keyset *ks;
	struct err err;
	long began = (long)clock_now_ms();
	int days;

	if (keydir_read_info(path, &info, &err) != 0 || source_find(&source, config, NULL, datadir, keyset, &err) != 0) {
		finding_err(f, FINDING_PROBLEM, &err);
		return;
	}
	if ((ks = source_open(&source, path, &err)) == NULL)
		finding_err(f, FINDING_PROBLEM, &err);
	else
		finding(f, FINDING_OK, NULL, "the cluster key came from %s in %ld ms and opens it: relation key %s",
		        source.reference, (long)clock_now_ms() - began, info.relation_id);
	keyset_free(ks);
	source_free(&source);
	if (info.cut_off)
		finding(f, FINDING_WARNING, "\"walcrypt-ctl key repair\" finishes or undoes it.",
		        "a change of its keys was cut off");
	if (info.nepochs > 1)
		finding(f, FINDING_NOTE, "\"walcrypt-ctl key retire\" tells which of them nothing needs any more.",
		        "it has %zu WAL epochs", info.nepochs);
	if ((days = keydir_age_days(info.epochs[info.nepochs - 1].created, time(NULL))) > OLD_DAYS)
		finding(f, FINDING_NOTE, "\"walcrypt-ctl rotate\" changes it (docs/switchover.md).",
		        "its newest WAL key is %d days old", days);
}

/* Which node or profile has this keyset? */
static const char *
owner(const struct settings *settings, const char *keyset)
{
	for (size_t i = 0; i < settings->nnodes; i++)
		if (settings->nodes[i].keyset != NULL && strcmp(settings->nodes[i].keyset, keyset) == 0)
			return settings->nodes[i].name;
	return NULL;
}

static bool
listed(const struct keystore_names *names, const char *keyset)
{
	for (size_t i = 0; i < names->n; i++)
		if (strcmp(names->name[i], keyset) == 0)
			return true;
	return false;
}

void
doctor_keystore(struct findings *f, const char *config, const struct settings *settings)
{
	struct keystore_names names = {0};
	char path[PATH_MAX];
	struct err err;

	findings_area(f, "keystore %s", settings->keystore);
	if (keystore_check(settings->keystore, &err) != 0 || keystore_names(settings->keystore, &names, &err) != 0) {
		finding_err(f, FINDING_PROBLEM, &err);
		keystore_names_free(&names);
		return;
	}
	finding(f, FINDING_OK, NULL, "it is its owner's alone");
	for (size_t i = 0; i < settings->nnodes; i++) {
		const struct settings_node *n = &settings->nodes[i];

		if (n->keyset == NULL || listed(&names, n->keyset))
			continue;
		if (n->keyset_auto)
			finding(f, FINDING_NOTE, NULL, "\"%s\" has no keys yet: its first base backup makes them", n->name);
		else
			finding(f, FINDING_PROBLEM, "\"walcrypt-ctl key init\" makes it.", "\"%s\" has no keyset \"%s\" yet",
			        n->name, n->keyset);
	}
	for (size_t i = 0; i < names.n; i++) {
		findings_area(f, "keyset %s", names.name[i]);
		if (owner(settings, names.name[i]) == NULL)
			finding(f, FINDING_NOTE, NULL, "no node and no profile uses it");
		if (path_format(path, &err, "%s/%s", settings->keystore, names.name[i]) != 0)
			finding_err(f, FINDING_PROBLEM, &err);
		else
			doctor_keys(f, config, path, NULL, names.name[i]);
	}
	keystore_names_free(&names);
}
