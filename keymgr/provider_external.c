/*
 * provider_external: keys that a process of the site's own keeps, by name: external:NAME:COMMAND. The process is
 * keymgr/keeper.c's business, what is said docs/formats/external.md's.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/hex.h"
#include "keymgr/keeper.h"
#include "keymgr/provider_scheme.h"
#include "keymgr/uri.h"
#include "walcrypt/secmem.h"

#define NAME_MAX_LEN 256
#define ESCAPED_MAX (3 * NAME_MAX_LEN + 4)

/* Who is asked for which key. */
struct external {
	char name[NAME_MAX_LEN + 1];
	char escaped[ESCAPED_MAX]; /* the name as it is sent */
	const char *command;
	int64_t deadline_ms;
	struct keeper_talk *talk;
};

static int
source_parse(struct external *e, const char *rest, struct err *err)
{
	const char *colon = strchr(rest, ':');
	char given[ESCAPED_MAX];

	if (colon == NULL || colon == rest || colon[1] == '\0') {
		err_set(err, ERR_USAGE, "key provider is not of the form external:NAME:COMMAND");
		return err_hint(err, "For example: external:main:/usr/local/bin/keeper");
	}
	if ((size_t)(colon - rest) >= sizeof(given))
		goto too_long;
	snprintf(given, sizeof(given), "%.*s", (int)(colon - rest), rest);
	if (uri_unescape(given, err) != 0)
		return -1;
	if (strlen(given) > NAME_MAX_LEN)
		goto too_long;
	snprintf(e->name, sizeof(e->name), "%.*s", NAME_MAX_LEN, given);
	e->command = colon + 1;
	return uri_escape(e->name, e->escaped, sizeof(e->escaped), err);
too_long:
	return err_set(err, ERR_USAGE, "the key's name is longer than %d bytes", NAME_MAX_LEN);
}

static int
external_check(const char *rest, const struct kek_conf *conf, struct err *err)
{
	struct external e;

	(void)conf;
	return source_parse(&e, rest, err);
}

static int
external_open(struct external *e, const char *rest, const struct kek_conf *conf, struct err *err)
{
	e->deadline_ms = clock_now_ms() + conf->timeout_ms;
	if (source_parse(e, rest, err) != 0)
		return -1;
	return (e->talk = secmem_alloc(sizeof(*e->talk), err)) != NULL ? 0 : -1;
}

static int
ask(struct external *e, struct err *err)
{
	return keeper_ask(e->command, e->talk, NULL, NULL, e->deadline_ms, err);
}

static int
key_get(struct external *e, struct kek *kek, struct err *err)
{
	char what[NAME_MAX_LEN + 32], *version;

	snprintf(e->talk->question, sizeof(e->talk->question), "get %s", e->escaped);
	if (ask(e, err) != 0) {
		if (err->os_errno == ENOENT) {
			err_set(err, ERR_FAILED, "the key keeper has no key \"%.100s\"", e->name);
			err->os_errno = ENOENT;
		}
		return -1;
	}
	if ((version = strchr(e->talk->answer, ' ')) != NULL) {
		*version++ = '\0';
		if (strlen(version) >= sizeof(kek->version) || strchr(version, ' ') != NULL)
			return err_set(err, ERR_FAILED, "the key keeper tells a version that is none");
		snprintf(kek->version, sizeof(kek->version), "%s", version);
	}
	snprintf(what, sizeof(what), "the key keeper's key \"%.100s\"", e->name);
	return provider_parse_key(e->talk->answer, strlen(e->talk->answer), false, what, kek, err);
}

static int
external_fetch(const char *rest, const struct kek_conf *conf, struct kek *kek, struct err *err)
{
	struct external e = {0};
	int result = -1;

	if (external_open(&e, rest, conf, err) == 0)
		result = key_get(&e, kek, err);
	secmem_free(e.talk);
	return result;
}

static int
refuse_existing(const struct external *e, struct err *err)
{
	err_set(err, ERR_REFUSED, "the key keeper has a key \"%.100s\" already", e->name);
	return err_hint(err, "To use it, leave --create-kek away.");
}

/* It died and was asked again: the key that is there may be this one. */
static int
key_compare(struct external *e, const struct kek *kek, struct err *err)
{
	struct kek *now = secmem_alloc(sizeof(*now), err);
	int result = -1;

	if (now != NULL && key_get(e, now, err) == 0)
		result = secmem_equal(now->key, kek->key, KEK_LEN) ? 0 : refuse_existing(e, err);
	secmem_free(now);
	return result;
}

static int
external_create(const char *rest, const struct kek_conf *conf, const struct kek *kek, struct err *err)
{
	struct external e = {0};
	int result = -1;
	size_t len;

	if (external_open(&e, rest, conf, err) != 0)
		goto done;
	len = (size_t)snprintf(e.talk->question, sizeof(e.talk->question), "create %s ", e.escaped);
	hex_encode(kek->key, KEK_LEN, e.talk->question + len);
	result = ask(&e, err);
	if (result != 0 && err->os_errno == EEXIST)
		result = e.talk->sent_twice ? key_compare(&e, kek, err) : refuse_existing(&e, err);
done:
	secmem_free(e.talk);
	return result;
}

/* A list as it comes, to whoever asked for it. */
struct listing {
	kek_listed *each;
	void *arg;
	bool malformed;
};

static void
list_line(void *arg, char *line)
{
	struct listing *l = arg;
	char *version = strchr(line, ' ');
	struct err ignored;

	if (version != NULL)
		*version++ = '\0';
	if (line[0] == '\0' || uri_unescape(line, &ignored) != 0)
		l->malformed = true;
	else
		l->each(l->arg, line, version != NULL ? version : "", "");
}

static int
external_list(const char *rest, const struct kek_conf *conf, kek_listed *each, void *arg, struct err *err)
{
	struct listing listing = {.each = each, .arg = arg};
	struct external e = {0};
	int result = -1;

	if (external_open(&e, rest, conf, err) == 0) {
		snprintf(e.talk->question, sizeof(e.talk->question), "list");
		result = keeper_ask(e.command, e.talk, list_line, &listing, e.deadline_ms, err);
	}
	if (result == 0 && listing.malformed)
		result = err_set(err, ERR_FAILED, "the key keeper lists a name that is none");
	secmem_free(e.talk);
	return result;
}

static int
external_destroy(const char *rest, const struct kek_conf *conf, const char *version, struct err *err)
{
	struct external e = {0};
	int result = -1;

	if (external_open(&e, rest, conf, err) == 0) {
		snprintf(e.talk->question, sizeof(e.talk->question), "destroy %s%s%.63s", e.escaped, version != NULL ? " " : "",
		         version != NULL ? version : "");
		result = ask(&e, err);
		/* the first process may have done it before it died */
		if (result != 0 && e.talk->sent_twice && err->os_errno == ENOENT)
			result = 0;
	}
	secmem_free(e.talk);
	return result;
}

static int
external_random(const char *rest, const struct kek_conf *conf, uint8_t *out, size_t len, struct err *err)
{
	struct external e = {0};
	int result = -1;

	if (external_open(&e, rest, conf, err) == 0) {
		snprintf(e.talk->question, sizeof(e.talk->question), "random %zu", len);
		result = ask(&e, err);
		if (result != 0 && err->os_errno == ENOSYS)
			err_set(err, ERR_REFUSED, "the key keeper has none");
		else if (result == 0 && hex_decode(e.talk->answer, strlen(e.talk->answer), out, len) != 0)
			result = err_set(err, ERR_FAILED, "the key keeper did not answer with %zu bytes", len);
	}
	secmem_free(e.talk);
	return result;
}

const struct provider_scheme provider_external = {.name = "external",
                                                  .check = external_check,
                                                  .fetch = external_fetch,
                                                  .create = external_create,
                                                  .list = external_list,
                                                  .destroy = external_destroy,
                                                  .random = external_random};
