/* Cluster keys from files and commands: what is taken, and each way to be refused. */
#include "keymgr/provider.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/sample.h"
#include "tests/unit/tap.h"
#include "walcrypt/secmem.h"

#define HEX "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F"
#define BLANKS_IN_HEX "00 01 02030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

static char folder[] = "/tmp/provider_testXXXXXX";
static char path[128], uri[256];

static const char *const bad_wrapped[] = {"vault:v1:", "",         "x",          "vault:v",
                                          "vault:v:x", "vault:v1", "vault:vx:1", "Vault:v1:x"};

static bool
is_sample(const struct kek *kek)
{
	for (int i = 0; kek != NULL && i < KEK_LEN; i++)
		if (kek->key[i] != i)
			return false;
	return kek != NULL;
}

static struct kek *
fetch(const char *from, struct err *err)
{
	struct kek_conf conf = {.uri = from, .timeout_ms = 5000, .key_dir = "/the/dir", .terminal_fd = -1};

	memset(err, 0, sizeof(*err));
	return kek_fetch(&conf, err);
}

static void
file_put(const char *text)
{
	FILE *f = fopen(path, "w");

	fputs(text, f);
	fclose(f);
	chmod(path, 0600);
}

static void
key_texts(void)
{
	static const char *const good[] = {HEX "\n", HEX, HEX "\r\n", BLANKS_IN_HEX "\n\n  \n"};
	static const char *const bad[] = {
	    "", "\n" HEX "\n", HEX "00\n", "0001\n", "g" HEX "\n", HEX "\nmore\n", "encryptionkey=" HEX "\n"};
	struct kek *kek;
	struct err err;

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		file_put(good[i]);
		ok(is_sample(kek = fetch(uri, &err)), "file: good text %zu", i);
		kek_free(kek);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		file_put(bad[i]);
		ok(fetch(uri, &err) == NULL && err.class == ERR_FAILED, "file: bad text %zu", i);
		ok(strstr(err.text, "0001") == NULL && strstr(err.detail, "0001") == NULL, "... and none of it in the message");
	}
}

static void
files(void)
{
	static const mode_t open_modes[] = {0644, 0604, 0602, 0660, 0610, 0601};
	struct kek *kek;
	struct err err;

	file_put(HEX "\n");
	for (size_t i = 0; i < sizeof(open_modes) / sizeof(open_modes[0]); i++) {
		chmod(path, open_modes[i]);
		ok(fetch(uri, &err) == NULL, "file: mode %o", (unsigned)open_modes[i]);
		is_err(&err, ERR_REFUSED, "others may read or write it", "... is refused");
	}
	chmod(path, 0640);
	kek = fetch(uri, &err);
	/* root may give a key to a group; anybody else's file is his own */
	ok(geteuid() == 0 ? is_sample(kek) : kek == NULL && err.class == ERR_REFUSED, "file: mode 640 is for root's files");
	kek_free(kek);
	chmod(path, 0400);
	ok(is_sample(kek = fetch(uri, &err)), "file: mode 400");
	kek_free(kek);
	if (geteuid() == 0) {
		ok(chown(path, 65534, 65534) == 0 && fetch(uri, &err) == NULL, "file: another user's");
		is_err(&err, ERR_REFUSED, "belongs to another user", "... is refused");
	}
	unlink(path);
	ok(fetch(uri, &err) == NULL, "file: missing");
	is_err(&err, ERR_UNREACHABLE, path, "... is unreachable, and named");
	is_int(err.os_errno, ENOENT, "... with ENOENT");
	mkdir(path, 0700);
	ok(fetch(uri, &err) == NULL, "file: a folder");
	is_err(&err, ERR_REFUSED, "not a regular file", "... is refused");
	rmdir(path);
	ok(fetch("file:", &err) == NULL, "file: without a path");
	is_err(&err, ERR_USAGE, "names no source", "... is refused");
}

static void
creation(void)
{
	struct kek_conf conf = {.uri = uri, .terminal_fd = -1};
	struct kek *one, *other;
	bool made;
	struct stat st;
	struct err err = {0};
	mode_t mask = umask(0);

	ok(kek_prepare(&conf, false, NULL, &made, &err) == NULL && err.os_errno == ENOENT && !made, "file: not there");
	ok((one = kek_prepare(&conf, true, NULL, &made, &err)) != NULL && made, "file: created");
	umask(mask);
	ok(stat(path, &st) == 0 && (st.st_mode & 07777) == 0600 && st.st_size == 65, "... mode 0600 whatever the umask");
	ok((other = kek_prepare(&conf, true, NULL, &made, &err)) != NULL && !made, "... not made twice");
	ok(one != NULL && other != NULL && memcmp(one->key, other->key, KEK_LEN) == 0, "... and left as it was");
	ok(one != NULL && one->wrapped_len == 0 && !kek_is_envelope(&conf), "... by a store, which wraps nothing");
	kek_free(other);
	unlink(path);
	other = kek_prepare(&conf, true, NULL, &made, &err);
	ok(one != NULL && other != NULL && memcmp(one->key, other->key, KEK_LEN) != 0, "the next key is another one");
	kek_free(other);
	unlink(path);
	other = kek_prepare(&conf, true, one, &made, &err);
	ok(one != NULL && other != NULL && memcmp(one->key, other->key, KEK_LEN) == 0, "... or the one that is given");
	kek_free(other);
	kek_free(one);
	unlink(path);
}

/* Without a server: what it refuses by itself. */
static void
envelopes(void)
{
	struct kek_conf conf = {.uri = "vault-transit://127.0.0.1:1/transit/x", .terminal_fd = -1};
	struct err err = {0};

	ok(kek_is_envelope(&conf), "vault-transit: is an envelope");
	ok(kek_fetch(&conf, &err) == NULL, "... without a wrapped key there is none");
	is_err(&err, ERR_FAILED, "holds no cluster key wrapped by \"vault-transit:\"", "... and says so");
	for (size_t i = 0; i < sizeof(bad_wrapped) / sizeof(bad_wrapped[0]); i++) {
		conf.wrapped = (const uint8_t *)bad_wrapped[i];
		conf.wrapped_len = i == 0 ? KEK_WRAPPED_MAX + 1 : strlen(bad_wrapped[i]);
		ok(kek_fetch(&conf, &err) == NULL, "... wrapped key %zu", i);
		is_err(&err, ERR_DAMAGED, "the wrapped cluster key ", "... is refused before it is sent");
	}
}

static void
commands(void)
{
	static const struct {
		const char *uri;
		enum err_class class;
		const char *said;
	} bad[] = {
	    {"command:echo " HEX, ERR_REFUSED, "64 hexadecimal digits"},
	    {"command:echo oops >&2; exit 7", ERR_UNREACHABLE, "exit status 7"},
	    {"command:kill -9 $$", ERR_UNREACHABLE, "exit status 137"},
	    {"command:true", ERR_FAILED, "key command gave no cluster key"},
	    {"command:printf '%s%s\\nmore\\n' 000102030405060708090a0b0c0d0e0f 101112131415161718191a1b1c1d1e1f",
	     ERR_FAILED, "more than one line"},
	    {"command:seq 1 1000", ERR_FAILED, "printed more than"},
	    {"command:sleep 60", ERR_UNREACHABLE, "did not end within"},
	    {"command:/nonexistent", ERR_UNREACHABLE, "exit status 127"},
	};
	static const char *const good[] = {
	    "command:printf '%s%s\\n' 000102030405060708090a0b0c0d0e0f 101112131415161718191a1b1c1d1e1f",
	    "command:printf 'encryptionkey=%s%s' 000102030405060708090a0b0c0d0e0f 101112131415161718191A1B1C1D1E1F",
	    /* %d, %%, and a percent sign that means nothing */
	    "command:test '%d' = /the/dir && test '%%' = \"$(printf '\\045')\" && test '%q' = \"$(printf '\\045q')\" && "
	    "printf '%s%s\\n' 000102030405060708090a0b0c0d0e0f 101112131415161718191a1b1c1d1e1f",
	    "command:test '%p' = 'Enter authentication needed to generate the cluster key: ' && "
	    "printf '%s%s\\n' 000102030405060708090a0b0c0d0e0f 101112131415161718191a1b1c1d1e1f",
	    /* it does not see the layer's environment */
	    "command:test -z \"$LD_PRELOAD$WALCRYPT_KEK$WALCRYPT_CONFIG\" && "
	    "printf '%s%s\\n' 000102030405060708090a0b0c0d0e0f 101112131415161718191a1b1c1d1e1f"};
	struct kek_conf conf = {.terminal_fd = -1};
	struct kek *kek;
	struct err err;

	setenv("WALCRYPT_KEK", "command:x", 1);
	setenv("WALCRYPT_CONFIG", "/x", 1);
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		kek = fetch(good[i], &err);
		if (!ok(is_sample(kek), "command: good %zu", i))
			printf("# %s %s\n", err.text, err.detail);
		kek_free(kek);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		memset(&err, 0, sizeof(err));
		conf.uri = bad[i].uri;
		conf.timeout_ms = strcmp(bad[i].said, "did not end within") == 0 ? 600 : 20000;
		ok(kek_fetch(&conf, &err) == NULL, "command: bad %zu", i);
		is_err(&err, bad[i].class, bad[i].said, "... is said");
	}
	conf.uri = bad[1].uri;
	kek_fetch(&conf, &err);
	is_str(err.detail, "It said: oops", "its stderr is shown");
	conf.uri = "command:printf '%s%s\\n' 000102030405060708090a0b0c0d0e0f 101112131415161718191a1b1c1d1e1f >&2; exit 1";
	kek_fetch(&conf, &err);
	is_str(err.detail, "", "... but not if it holds a key");
	conf.uri = "command:cat %d/x";
	ok(kek_fetch(&conf, &err) == NULL, "command: %%d without a key directory");
	is_err(&err, ERR_USAGE, "no key directory yet", "... is said");
}

static void
terminal(void)
{
	struct kek_conf conf = {.uri = "command:cat <&%R", .timeout_ms = 5000, .terminal_fd = -1};
	struct kek *kek;
	struct err err = {0};
	int fds[2];

	ok(pipe(fds) == 0 && write(fds[1], HEX "\n", 65) == 65 && close(fds[1]) == 0, "something like a terminal");
	conf.terminal_fd = fds[0];
	ok(is_sample(kek = kek_fetch(&conf, &err)), "command: reads from the descriptor that %%R names");
	kek_free(kek);
	close(fds[0]);
}

static void
references(void)
{
	struct kek_conf conf = {.uri = "file:/a/b"};
	char text[512];
	struct err err;

	kek_reference(&conf, text, sizeof(text));
	is_str(text, "file:/a/b", "a reference");
	conf.uri = "file:" HEX;
	kek_reference(&conf, text, sizeof(text));
	is_str(text, "(not shown)", "one that looks like a key is not shown");
	ok(fetch("nonsense:x", &err) == NULL, "an unknown provider");
	is_err(&err, ERR_USAGE, "key provider \"nonsense\" is not known", "... is said");
	ok(fetch(HEX, &err) == NULL, "a bare key");
	is_err(&err, ERR_USAGE, "not of the form", "... is refused");
	ok(strstr(err.text, "0001") == NULL, "... and not quoted");
	ok(fetch(HEX ":x", &err) == NULL && strstr(err.text, "0001") == NULL, "not with a colon either");
}

int
main(void)
{
	sample_secmem(256 * 1024);
	if (mkdtemp(folder) == NULL)
		return 1;
	snprintf(path, sizeof(path), "%s/kek", folder);
	snprintf(uri, sizeof(uri), "file:%s", path);
	key_texts();
	files();
	creation();
	envelopes();
	commands();
	terminal();
	references();
	rmdir(folder);
	is_int(secmem_used(), 0, "no key is left in memory");
	return tap_done();
}
