/* Keys from a process that stays: the sample in conf/external, and processes that die, hang, and say what they must
 * not. */
#include "keymgr/provider.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/hex.h"
#include "keymgr/provider_scheme.h"
#include "tests/unit/sample.h"
#include "tests/unit/tap.h"
#include "walcrypt/random.h"
#include "walcrypt/secmem.h"

#define KEEPER "exec perl conf/external/keeper.pl"
#define HALF "000102030405060708090a0b0c0d0e0f"
#define OTHER_HALF "101112131415161718191a1b1c1d1e1f"
/* a keeper in shell: it answers what stands in the words, one for each question after init */
#define SAYS(answers) "read -r q; echo ok 1; for a in " answers "; do read -r q; printf \"$a\\n\"; done; cat >/dev/null"

static char folder[] = "/tmp/keeper_testXXXXXX";
static char uri[2048];

static const char *
named(const char *name, const char *command)
{
	snprintf(uri, sizeof(uri), "external:%s:%s", name, command);
	return uri;
}

static const char *
sample(const char *name)
{
	snprintf(uri, sizeof(uri), "external:%s:" KEEPER " %s/keys", name, folder);
	return uri;
}

static struct kek *
fetch(const char *from, int timeout_ms, struct err *err)
{
	struct kek_conf conf = {.uri = from, .timeout_ms = timeout_ms, .terminal_fd = -1};

	memset(err, 0, sizeof(*err));
	return kek_fetch(&conf, err);
}

static int
create(const char *from, struct err *err)
{
	struct kek_conf conf = {.uri = from, .timeout_ms = 60000, .terminal_fd = -1};
	struct kek *kek = secmem_alloc(sizeof(*kek), err);
	int result;

	memset(err, 0, sizeof(*err));
	result = kek == NULL || random_bytes(kek->key, sizeof(kek->key), err) != 0
	             ? -1
	             : provider_external.create(strchr(from, ':') + 1, &conf, kek, err);
	kek_free(kek);
	return result;
}

struct seen {
	size_t n;
	char names[2048];
};

static void
see(void *arg, const char *name, const char *version, const char *state)
{
	struct seen *seen = arg;
	size_t len = strlen(seen->names);

	seen->n++;
	snprintf(seen->names + len, sizeof(seen->names) - len, "%s|%s|%s", name, version, state);
}

static void
keys_by_name(void)
{
	char longest[3 * 256 + 1] = "", too_long[300];
	const char *const names[] = {"main", "a%20b", "..%2F..%2Fescape", "%2e%2e", "per%25cent", "caf%C3%A9", longest};
	struct kek_conf conf = {.timeout_ms = 60000, .terminal_fd = -1};
	struct seen seen = {0};
	struct err err = {0};

	for (int i = 0; i < 256; i++)
		strncat(longest, "%2F", 4);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct kek *one, *other;

		/* 256 escaped bytes are a file name of 768: the file system's limit is the sample's */
		if (names[i] == longest) {
			ok(create(sample(longest), &err) != 0 && err.class == ERR_FAILED, "a name too long for the sample's files");
			ok(strstr(err.text, "the key keeper failed") != NULL, "... is its error");
			continue;
		}
		ok(fetch(sample(names[i]), 60000, &err) == NULL, "%s: not there", names[i]);
		is_int(err.os_errno, ENOENT, "... says ENOENT");
		is_int(create(uri, &err), 0, "... made");
		one = fetch(uri, 60000, &err);
		is_int(create(uri, &err), -1, "... not made twice");
		is_err(&err, ERR_REFUSED, "has a key \"", "... but refused");
		other = fetch(uri, 60000, &err);
		ok(one != NULL && other != NULL && memcmp(one->key, other->key, KEK_LEN) == 0, "... and left as it was");
		kek_free(one);
		kek_free(other);
	}
	memset(too_long, 'x', 257);
	too_long[257] = '\0';
	ok(fetch(sample(too_long), 60000, &err) == NULL, "a name of 257 bytes");
	is_err(&err, ERR_USAGE, "longer than 256 bytes", "... is refused");
	conf.uri = sample("main");
	is_int(kek_list(&conf, see, &seen, &err), 0, "list");
	is_int(seen.n, 6, "... of all that were made");
	ok(strstr(seen.names, "main||") != NULL && strstr(seen.names, "../../escape||") != NULL, "... by their names");
	is_int(kek_destroy(&conf, NULL, &err), 0, "destroy");
	ok(fetch(uri, 60000, &err) == NULL && err.os_errno == ENOENT, "... and it is gone");
	is_int(kek_destroy(&conf, NULL, &err), -1, "destroy what is not there");
	is_int(err.os_errno, ENOENT, "... says so");
}

static long
pid_of(const char *file)
{
	char path[128];
	long pid = 0;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", folder, file);
	if ((f = fopen(path, "r")) != NULL) {
		if (fscanf(f, "%ld", &pid) != 1)
			pid = 0;
		fclose(f);
	}
	return pid;
}

/* One process answers all questions; one that was killed is started again; at the end it is told to end. */
static void
process_stays(void)
{
	char command[256];
	struct kek *kek;
	struct err err;
	long first, second;

	snprintf(command, sizeof(command), "echo $$ >%s/pid; " KEEPER " %s/keys", folder, folder);
	is_int(create(named("stays", command), &err), 0, "a key");
	first = pid_of("pid");
	ok((kek = fetch(uri, 60000, &err)) != NULL, "asked again");
	kek_free(kek);
	is_int(pid_of("pid"), first, "... the same process answers");
	kill((pid_t)first, SIGKILL);
	ok((kek = fetch(uri, 60000, &err)) != NULL, "killed: the question is answered all the same");
	kek_free(kek);
	second = pid_of("pid");
	ok(second > 0 && second != first, "... by another process");
	kek_finish();
	ok(kill((pid_t)second, 0) != 0 && errno == ESRCH, "finish: it has ended");
	ok((kek = fetch(uri, 60000, &err)) != NULL, "and asked once more");
	kek_free(kek);
}

static void
bad_processes(void)
{
	static const struct {
		const char *name, *command;
		enum err_class class;
		const char *said;
	} bad[] = {
	    {"no program", "/nonexistent/keeper", ERR_UNREACHABLE, "the key keeper has ended"},
	    {"one that ends", "echo no licence >&2; exit 3", ERR_UNREACHABLE, "the key keeper has ended"},
	    {"one that dies at the question", "read -r q; echo ok 1; read -r q", ERR_UNREACHABLE, "has ended"},
	    {"one that hangs", "sleep 60", ERR_UNREACHABLE, "did not answer in time"},
	    {"one that hangs at the question", SAYS(""), ERR_UNREACHABLE, "did not answer in time"},
	    {"half a line", "read -r q; printf 'ok 1'; sleep 60", ERR_UNREACHABLE, "did not answer in time"},
	    {"another version", "read -r q; echo ok 2; cat", ERR_FAILED, "speaks version \"2\""},
	    {"no answer", SAYS("hello"), ERR_FAILED, "answer is none"},
	    {"another word", SAYS("okay"), ERR_FAILED, "answer is none"},
	    {"a line too long", "read -r q; echo ok 1; read -r q; head -c 3000 /dev/zero | tr '\\0' a; cat", ERR_FAILED,
	     "longer than 2047 bytes"},
	    {"no key", SAYS("ok"), ERR_FAILED, "gave no cluster key"},
	    {"a key too short", SAYS("'ok " HALF "'"), ERR_FAILED, "gave no cluster key"},
	    {"a version too long", SAYS("\"ok x $(seq -s- 1 40)\""), ERR_FAILED, "a version that is none"},
	    {"denied", SAYS("'error denied not for you'"), ERR_UNREACHABLE, "denies the key"},
	    {"unavailable", SAYS("'error unavailable'"), ERR_UNREACHABLE, "cannot reach its keys"},
	    {"an error of its own", SAYS("'error 17 odd'"), ERR_FAILED, "the key keeper failed"},
	};
	struct kek *kek;
	struct err err;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		int64_t start = clock_now_ms();
		int timeout_ms = strcmp(bad[i].said, "did not answer in time") == 0 ? 1500 : 25000;

		ok(fetch(named("k", bad[i].command), timeout_ms, &err) == NULL, "%s", bad[i].name);
		is_err(&err, bad[i].class, bad[i].said, "... is said");
		ok(clock_now_ms() - start < 30000, "... in time");
		if (strcmp(bad[i].name, "one that ends") == 0)
			is_str(err.detail, "It said: no licence", "... with its stderr");
		if (strcmp(bad[i].name, "denied") == 0)
			is_str(err.detail, "It said: not for you", "... with its text");
	}
	/* its own words may not carry a key into a log */
	fetch(named("k", SAYS("'error failed " HALF "" OTHER_HALF "'") " # ''"), 5000, &err);
	ok(strstr(err.detail, HALF) == NULL, "a key in an error is not repeated");
	/* what was said unasked is not taken for the next answer */
	ok((kek = fetch(named("k", SAYS("'ok " HALF "'\"" OTHER_HALF "\\nok " OTHER_HALF "\"'" HALF "'")), 5000, &err)) !=
	       NULL,
	   "two answers to one question: the first");
	ok(kek != NULL && kek->key[0] == 0, "... is taken");
	kek_free(kek);
	ok((kek = fetch(uri, 5000, &err)) != NULL && kek->key[0] == 0, "... and the second is not, next time");
	kek_free(kek);
}

/* Neither arguments nor environment of the process hold a key, and it has no use for the layer's variables. */
static void
nothing_inherited(void)
{
	static const char command[] = "env >%s/env; tr '\\0' ' ' </proc/$$/cmdline >%s/cmd; " KEEPER " %s/keys";
	char path[256], text[65536], hex[65] = "";
	struct err err;
	struct kek *kek;

	setenv("WALCRYPT_KEK", "command:x", 1);
	snprintf(path, sizeof(path), command, folder, folder, folder);
	is_int(create(named("hidden", path), &err), 0, "a key");
	ok((kek = fetch(uri, 60000, &err)) != NULL, "... fetched");
	if (kek != NULL)
		hex_encode(kek->key, KEK_LEN, hex);
	kek_free(kek);
	for (int i = 0; i < 2; i++) {
		FILE *f;
		size_t n = 0;

		snprintf(path, sizeof(path), "%s/%s", folder, i == 0 ? "env" : "cmd");
		if ((f = fopen(path, "r")) != NULL) {
			n = fread(text, 1, sizeof(text) - 1, f);
			fclose(f);
		}
		text[n] = '\0';
		ok(n > 0 && strstr(text, hex) == NULL && strstr(text, "WALCRYPT_KEK") == NULL, "not in its %s", path);
	}
	unsetenv("WALCRYPT_KEK");
}

static void
names(void)
{
	static const char *const bad[] = {"external:x", "external::cmd", "external:x:", "external:%zz:cmd",
	                                  "external:%00:cmd"};
	struct err err;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ok(fetch(bad[i], 1000, &err) == NULL && err.class == ERR_USAGE, "%s is refused", bad[i]);
	ok(fetch("external:k:echo " HALF OTHER_HALF, 1000, &err) == NULL && err.class == ERR_REFUSED,
	   "a key in the command is refused");
}

int
main(void)
{
	char command[64];

	sample_secmem(256 * 1024);
	if (mkdtemp(folder) == NULL)
		return 1;
	keys_by_name();
	process_stays();
	bad_processes();
	nothing_inherited();
	names();
	kek_finish();
	snprintf(command, sizeof(command), "rm -r %s", folder);
	ok(system(command) == 0, "cleaned up");
	is_int(secmem_used(), 0, "no key is left in memory");
	return tap_done();
}
