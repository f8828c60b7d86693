/* site_check: what a start would refuse in a configuration, as far as that can be told without fetching a key. */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <postgresql/libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/username.h"
#include "keymgr/keystore.h"
#include "proxy/access.h"
#include "proxy/site.h"

/* Of [node NAME], or of [walcrypt] without a name. */
static int
check_conninfo(const struct settings *s, const char *name, const char *option, const char *conninfo, struct err *err)
{
	/* libpq quotes the word that it does not understand: it may be half of a password */
	bool secret = strstr(conninfo, "password") != NULL || strstr(conninfo, "://") != NULL;
	PQconninfoOption *options;
	char *why = NULL;

	if ((options = PQconninfoParse(conninfo, &why)) != NULL) {
		PQconninfoFree(options);
		return 0;
	}
	if (why == NULL)
		return err_nomem(err);
	settings_error(s, name != NULL ? "node" : "walcrypt", name, option, err, "%s is no connection string of libpq",
	               option);
	why[strcspn(why, "\n")] = '\0';
	err_detail(err, "%s", secret ? "What libpq says of it is not shown, because there is a password in it." : why);
	PQfreemem(why);
	return err_hint(err, "Write it as host=... port=... user=..., or as postgresql://user@host:port.");
}

static int
check_uri(const struct settings *s, const struct settings_kek *k, struct err *err)
{
	struct kek_conf conf = {.terminal_fd = -1};
	struct err why = {0};
	struct stat st;
	const char *path;

	kek_conf_set(&conf, k);
	if (kek_check(&conf, &why) != 0) {
		settings_error(s, "kek", k->name, "uri", err, "%s", why.text);
		err->class = why.class;
		return why.hint[0] != '\0' ? err_hint(err, "%s", why.hint) : -1;
	}
	if (strncmp(k->uri, "file:", 5) != 0 || !settings_kek_used(s, k))
		return 0;
	path = k->uri + 5;
	if (stat(path, &st) != 0) {
		settings_error(s, "kek", k->name, "uri", err, "could not look at cluster key file \"%s\": %s", path,
		               strerror(errno));
		return err_hint(
		    err,
		    "The first walcrypt-ctl key init NAME --create-kek makes the file; one that is lost comes from its copy.");
	}
	return S_ISREG(st.st_mode)
	           ? 0
	           : settings_error(s, "kek", k->name, "uri", err, "cluster key file \"%s\" is not a regular file", path);
}

/* "Known are: a, b." */
static int
hint_keysets(const struct settings *s, const char *wanted, struct err *err)
{
	char known[128] = "", path[PATH_MAX];
	struct dirent **list;
	int n = scandir(s->keystore, &list, NULL, alphasort);
	size_t used = 0;

	for (int i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "%s/%s", s->keystore, list[i]->d_name);
		if (list[i]->d_name[0] != '.' && keydir_exists(path) && used < sizeof(known))
			used += (size_t)snprintf(known + used, sizeof(known) - used, "%s%s",
			                         used > 0 ? ", " : " Known are: ", list[i]->d_name);
		free(list[i]);
	}
	if (n >= 0)
		free(list);
	return err_hint(err, "Make it: walcrypt-ctl key init %s.%s%s", wanted, known, used > 0 ? "." : "");
}

static int
check_keyset(const struct settings *s, const struct settings_node *n, struct err *err)
{
	const char *kind = n->profile ? "profile" : "node";
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", s->keystore, n->keyset);
	if (access(path, R_OK | X_OK) != 0 && errno != ENOENT) {
		settings_error(s, kind, n->name, "keyset", err, "could not read keyset \"%s\": %s", path, strerror(errno));
		return err_hint(err, "Run walcrypt-ctl key init and the proxy as one user, who owns the keystore.");
	}
	if (n->keyset_auto || keydir_exists(path))
		return 0;
	settings_error(s, kind, n->name, "keyset", err, "there is no keyset \"%s\" in keystore \"%s\"", n->keyset,
	               s->keystore);
	err->class = ERR_REFUSED;
	return hint_keysets(s, n->keyset, err);
}

/* missing: what to do when it is not there */
static int
check_folder(const struct settings *s, const char *option, const char *path, const char *missing, struct err *err)
{
	struct stat st;

	if (stat(path, &st) != 0) {
		int gone = errno == ENOENT;

		settings_error(s, "walcrypt", NULL, option, err, "could not look at %s \"%s\": %s", option, path,
		               strerror(errno));
		return gone ? err_hint(err, "%s", missing) : -1;
	}
	return S_ISDIR(st.st_mode)
	           ? 0
	           : settings_error(s, "walcrypt", NULL, option, err, "%s \"%s\" is not a folder", option, path);
}

static int
check_sockets(const struct settings *s, struct err *err)
{
	size_t room = sizeof(((struct sockaddr_un *)0)->sun_path) - sizeof("/.s.PGSQL.65535");

	if (s->unix_socket_dir == NULL)
		return 0;
	if (strlen(s->unix_socket_dir) > room) {
		settings_error(s, "walcrypt", NULL, "unix_socket_dir", err, "unix_socket_dir \"%s\" is too long",
		               s->unix_socket_dir);
		return err_hint(err, "It has at most %zu bytes.", room);
	}
	return check_folder(s, "unix_socket_dir", s->unix_socket_dir,
	                    "Make it; the user that runs the proxy must be able to write there.", err);
}

/* They are read for good after the keys; here only to see that they can be. */
static int
check_access(const struct settings *s, struct err *err)
{
	struct tls *tls;
	struct userlist *users;
	int rc = access_load(s, &tls, &users, err);

	tls_free(tls);
	userlist_free(users);
	return rc;
}

/* Keys are for who owns the keystore, the console for who works the proxy: one name must not be both. */
static int
check_owner(const struct settings *s, struct err *err)
{
	char *const *const lists[] = {s->admin_users, s->stats_users};
	static const char *const options[] = {"admin_users", "stats_users"};
	char owner[USERNAME_LEN];
	struct stat st;

	if (keystore_check(s->keystore, err) != 0)
		return -1;
	if (stat(s->keystore, &st) != 0)
		return 0;
	username(st.st_uid, owner);
	for (size_t i = 0; i < 2; i++)
		for (char *const *user = lists[i]; user != NULL && *user != NULL; user++)
			if (strcmp(*user, owner) == 0) {
				settings_error(s, "walcrypt", NULL, options[i], err, "\"%s\" in %s owns the keystore", *user,
				               options[i]);
				return err_hint(err, "Give the console a role of another name: its users need not get at keys.");
			}
	return 0;
}

int
site_check(const struct settings *s, struct err *err)
{
	if (s->keystore == NULL) {
		err_set(err, ERR_USAGE, "\"%s\" has no [walcrypt] section", s->file);
		return err_hint(err, "The proxy needs one; conf/walcrypt.ini is a sample with every option.");
	}
	if (check_sockets(s, err) != 0 ||
	    check_folder(s, "keystore", s->keystore, "walcrypt-ctl key init NAME makes it, with a first keyset.", err) !=
	        0 ||
	    check_owner(s, err) != 0)
		return -1;
	if (s->auth_conninfo != NULL && check_conninfo(s, NULL, "auth_conninfo", s->auth_conninfo, err) != 0)
		return -1;
	for (size_t i = 0; i < s->nkeks; i++)
		if (check_uri(s, &s->keks[i], err) != 0)
			return -1;
	for (size_t i = 0; i < s->nnodes; i++)
		if ((s->nodes[i].conninfo != NULL &&
		     check_conninfo(s, s->nodes[i].name, "conninfo", s->nodes[i].conninfo, err) != 0) ||
		    (s->nodes[i].keyset != NULL && check_keyset(s, &s->nodes[i], err) != 0))
			return -1;
	return check_access(s, err);
}
