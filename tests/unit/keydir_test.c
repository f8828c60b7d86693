/* Key directories: what they hold, each way in which they can be wrong, and power cuts at every step of a change. */
#include "keymgr/keydir.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/durable.h"
#include "common/path.h"
#include "tests/unit/crashcall.h"
#include "tests/unit/failmalloc.h"
#include "tests/unit/sample.h"
#include "tests/unit/tap.h"
#include "walcrypt/secmem.h"

static char folder[] = "/tmp/keydir_testXXXXXX";
static char dir[64];
static struct kek *one, *other;

static struct kek *
kek_of(uint8_t byte)
{
	struct err err;
	struct kek *kek = secmem_alloc(sizeof(*kek), &err);

	memset(kek->key, byte, sizeof(kek->key));
	return kek;
}

static const char *
in(const char *name)
{
	static char path[8][PATH_MAX];
	static int next;
	struct err err;

	next = (next + 1) % 8;
	path_format(path[next], &err, "%s/%s", dir, name);
	return path[next];
}

static void
dir_remove(void)
{
	struct err err;

	durable_remove_dir(in("live"), &err);
	durable_remove_dir(in("new"), &err);
	durable_remove_dir(in("old"), &err);
	rmdir(dir);
}

static bool
there(const char *name)
{
	return access(in(name), F_OK) == 0;
}

static bool
same(const struct keyset *a, const struct keyset *b)
{
	struct err err;
	size_t alen, blen;
	uint8_t *x = a != NULL ? keyset_pack(a, &alen, &err) : NULL, *y = b != NULL ? keyset_pack(b, &blen, &err) : NULL;
	bool equal = x != NULL && y != NULL && alen == blen && memcmp(x, y, alen) == 0;

	secmem_free(x);
	secmem_free(y);
	return equal;
}

/* Does the directory open under this cluster key, to these keys? */
static bool
opens(const struct kek *kek, const struct keyset *want)
{
	struct err err;
	struct keyset *ks = keydir_open(dir, kek, &err);
	bool equal = same(ks, want);

	keyset_free(ks);
	return equal;
}

static void
create_sample(const struct keyset *ks)
{
	struct err err = {0};

	dir_remove();
	if (keydir_create(dir, ks, one, "file:/kek", &err) != 0)
		printf("# %s\n", err.text);
}

static void
good(void)
{
	struct keydir_files files;
	struct keydir_info info;
	struct err err = {0};
	struct stat st;

	for (int method = KEY_AES128; method <= KEY_AES256; method++) {
		struct keyset *ks = sample_keyset((enum key_method)method);

		create_sample(ks);
		ok(opens(one, ks), "%s: made and opened", key_method_name((enum key_method)method));
		is_int(keydir_read_info(dir, &info, &err), 0, "... read without a key");
		ok(info.method == (enum key_method)method && info.system_identifier == keyset_system_identifier(ks) &&
		       info.nepochs == keyset_nepochs(ks) && info.wal_epoch == 3,
		   "... what it says");
		is_str(info.provider, "file:/kek", "... its provider");
		keyset_free(ks);
	}
	ok(keydir_exists(dir) && !keydir_exists("/nonexistent"), "there, and not there");
	ok(stat(in("live"), &st) == 0 && (st.st_mode & 0777) == 0700, "the folder is ours alone");
	ok(stat(in("live/wal.wkey"), &st) == 0 && (st.st_mode & 0777) == 0600 && st.st_size == KEY_WRAPPED_LEN,
	   "so is a key file");
	is_int(keydir_load_files(dir, &files, &err), 0, "its files");
	is_int(files.n, 5, "... five");
	is_str(files.file[0].name, "keyset.json", "... sorted");
	is_str(files.file[4].name, "wal.wkey", "... by name");
	ok(memcmp(files.file[0].data, "{\n  \"format\": 1,\n", 17) == 0 &&
	       files.file[0].data[files.file[0].len - 1] == '\n',
	   "... as text");
	keydir_files_free(&files);
}

/* Change something in live/ with the shell, and see what opening says. */
static void
wrong(const char *what, const char *change, const struct kek *kek, enum err_class class, const char *said)
{
	struct keyset *ks = sample_keyset(KEY_AES256), *opened;
	char command[PATH_MAX];
	struct err err = {0};

	create_sample(ks);
	path_format(command, &err, "cd %s/live && %s", dir, change);
	ok(system(command) == 0, "%s", what);
	opened = keydir_open(dir, kek, &err);
	ok(opened == NULL, "... is not opened");
	is_err(&err, class, said, "... and said");
	ok(!(class == ERR_FAILED) || err.os_errno == ENOENT, "... a missing file is told from others");
	keyset_free(opened);
	keyset_free(ks);
}

static const struct {
	const char *what, *change;
	bool other_kek;
	enum err_class class;
	const char *said;
} changes[] = {
    {"another cluster key", "true", true, ERR_WRONG_KEY, "wrong cluster key for key directory"},
    {"a changed key file", "printf x | dd of=relation.wkey bs=1 seek=20 conv=notrunc 2>/dev/null", false, ERR_DAMAGED,
     "relation.wkey\" is damaged"},
    {"a changed key file of an earlier epoch", "printf x | dd of=wal-1.wkey bs=1 seek=20 conv=notrunc 2>/dev/null",
     false, ERR_DAMAGED, "wal-1.wkey\" is damaged"},
    {"a short key file", "truncate -s 47 wal.wkey", false, ERR_DAMAGED, "has 47 bytes instead of 48"},
    {"an empty key file", ": >relation.wkey", false, ERR_DAMAGED, "has 0 bytes instead of 48"},
    {"all key files changed", "for f in *.wkey; do printf x | dd of=$f bs=1 seek=20 conv=notrunc 2>/dev/null; done",
     false, ERR_DAMAGED, "relation.wkey\" is damaged"},
    {"a missing relation.wkey", "rm relation.wkey", false, ERR_FAILED, "relation.wkey\" is missing"},
    {"a missing wal.wkey", "rm wal.wkey", false, ERR_FAILED, "wal.wkey\" is missing"},
    {"a missing earlier epoch", "rm wal-2.wkey", false, ERR_FAILED, "wal-2.wkey\" is missing"},
    {"a missing keyset.json", "rm keyset.json wal.wkey", false, ERR_FAILED, "keyset.json\" is missing"},
    {"CFE's two files alone", "rm keyset.json wal-*", false, ERR_REFUSED, "Cluster File Encryption"},
    {"swapped files", "mv wal.wkey x && mv relation.wkey wal.wkey && mv x relation.wkey", false, ERR_DAMAGED,
     "swapped: relation.wkey holds the key of wal.wkey"},
    {"swapped epochs", "mv wal.wkey x && mv wal-1.wkey wal.wkey && mv x wal-1.wkey", false, ERR_DAMAGED,
     "swapped: wal-1.wkey holds the key of wal.wkey"},
    {"one file twice", "cp wal.wkey relation.wkey", false, ERR_DAMAGED,
     "swapped: relation.wkey holds the key of wal.wkey"},
    {"a key file too many", "cp wal.wkey wal-9.wkey", false, ERR_DAMAGED, "do not belong to its keyset"},
    {"a changed method", "sed -i s/AES256/AES128/ keyset.json", false, ERR_DAMAGED, "keyset.json\" was changed"},
    {"a changed system identifier", "sed -i 's/\"7300/\"7400/' keyset.json", false, ERR_DAMAGED,
     "keyset.json\" was changed"},
    {"a changed epoch", "sed -i 's/\"after_timeline\": 3/\"after_timeline\": 9/' keyset.json", false, ERR_DAMAGED,
     "keyset.json\" was changed"},
    {"a changed provider", "sed -i s,/kek,/sek, keyset.json", false, ERR_DAMAGED, "keyset.json\" was changed"},
    {"a changed code", "sed -i 's/\"mac\": \"..../\"mac\": \"0000/' keyset.json", false, ERR_DAMAGED,
     "keyset.json\" was changed"},
    {"no code", "sed -i 's/\"mac\": \".*\"/\"mac\": \"\"/' keyset.json", false, ERR_DAMAGED,
     "keyset.json\" was changed"},
    {"a blank more", "sed -i 's/\"mac\":/\"mac\": /' keyset.json", false, ERR_DAMAGED,
     "not written as walcrypt writes it"},
    {"no text", "echo nonsense >keyset.json", false, ERR_DAMAGED, "keyset.json\" is damaged"},
    {"half a text", "truncate -s 100 keyset.json", false, ERR_DAMAGED, "keyset.json\" is damaged"},
    {"a member more", "sed -i 's/\"format\": 1,/\"format\": 1, \"x\": 1,/' keyset.json", false, ERR_DAMAGED,
     "is damaged"},
    {"a member twice", "sed -i 's/\"format\": 1,/\"format\": 1, \"format\": 1,/' keyset.json", false, ERR_DAMAGED,
     "is damaged"},
    {"a later format", "sed -i 's/\"format\": 1,/\"format\": 2,/' keyset.json", false, ERR_REFUSED, "has format 2"},
    {"a huge keyset.json", "head -c 70000 /dev/zero >keyset.json", false, ERR_DAMAGED, "larger than"},
    {"a key id that is none", "sed -i 's/\"kek_id\": \"../\"kek_id\": \"ZZ/' keyset.json", false, ERR_DAMAGED,
     "is damaged"},
};

static void
wrong_ones(void)
{
	struct err err = {0};

	for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++)
		wrong(changes[i].what, changes[i].change, changes[i].other_kek ? other : one, changes[i].class,
		      changes[i].said);
	dir_remove();
	ok(keydir_open(dir, one, &err) == NULL && err.class == ERR_FAILED && err.os_errno == ENOENT,
	   "no key directory at all");
}

/* A keyset's file in another keyset of the same cluster key: every file opens, and still it is found. */
static void
mixed(void)
{
	struct keyset *a = sample_keyset(KEY_AES256), *b;
	struct keyset_epoch epoch = {.number = 1};
	struct data_key relation;
	struct err err = {0};
	char command[PATH_MAX];

	sample_key(&relation, KEY_AES256, 77);
	sample_key(&epoch.key, KEY_AES256, 78);
	b = keyset_new(KEY_AES256, 5, &relation, &epoch, 1, &err);
	create_sample(b);
	path_format(command, &err, "cp %s/live/relation.wkey %s/keep", dir, folder);
	ok(system(command) == 0, "another keyset under the same cluster key");
	create_sample(a);
	path_format(command, &err, "mv %s/keep %s/live/relation.wkey", folder, dir);
	ok(system(command) == 0 && keydir_open(dir, one, &err) == NULL, "its file is not taken");
	is_err(&err, ERR_DAMAGED, "relation.wkey\" belongs to another keyset", "... and said");
	keyset_free(a);
	keyset_free(b);
}

static void
side_files(void)
{
	struct keyset *ks = sample_keyset(KEY_AES256);
	struct err err = {0};
	char command[PATH_MAX];

	dir_remove();
	path_format(command, &err, "mkdir -p %s/new && echo id >%s/new/kms.id", dir, dir);
	ok(system(command) == 0 && keydir_create(dir, ks, one, "command:x", &err) == 0, "a key command's own file in new/");
	ok(there("live/kms.id") && opens(one, ks), "... comes along");
	is_int(keydir_create(dir, ks, one, "command:x", &err), -1, "a key directory is not made twice");
	is_err(&err, ERR_REFUSED, "exists already", "... but refused");
	is_int(keydir_replace(dir, ks, other, "command:y", &err), 0, "a change of the cluster key");
	ok(there("live/kms.id") && opens(other, ks) && !opens(one, ks) && !there("old") && !there("new"),
	   "... takes it along, and the old key opens nothing");
	keyset_free(ks);
}

/* The keys under another cluster key, in the three steps. */
static void
rewraps(void)
{
	struct keyset *ks = sample_keyset(KEY_AES256);
	struct keydir_rewrap r;
	struct keydir_info info;
	struct err err = {0};
	char command[PATH_MAX];

	create_sample(ks);
	is_int(keydir_rewrap_begin(dir, false, &r, &err), 0, "wrapping anew begins");
	is_int(keydir_rewrap(&r, other, one, "file:/x", &err), -1, "... with a wrong cluster key");
	is_err(&err, ERR_WRONG_KEY, "wrong cluster key", "... is said");
	is_int(keydir_rewrap(&r, one, other, "file:/other", &err), 0, "... with the right one");
	keydir_rewrap_end(&r);
	ok(opens(other, ks) && !opens(one, ks) && !there("new") && !there("old"), "... the new one opens the same keys");
	ok(keydir_read_info(dir, &info, &err) == 0 && strcmp(info.provider, "file:/other") == 0 && !info.cut_off,
	   "... and its reference is there");
	path_format(command, &err, "echo old >%s/live/kms.id && echo old >%s/live/other.id", dir, dir);
	ok(system(command) == 0 && keydir_rewrap_begin(dir, true, &r, &err) == 0 && there("new"), "new/ for a command");
	path_format(command, &err, "echo new >%s/new/kms.id", dir);
	ok(system(command) == 0 && keydir_rewrap(&r, other, one, "command:x", &err) == 0,
	   "... that leaves a file of its own in it");
	keydir_rewrap_end(&r);
	path_format(command, &err, "grep -q new %s/live/kms.id && grep -q old %s/live/other.id", dir, dir);
	ok(system(command) == 0 && opens(one, ks), "... which is newer than the old command's, while others come along");
	ok(keydir_rewrap_begin(dir, true, &r, &err) == 0 && there("new"), "begun");
	keydir_rewrap_end(&r);
	ok(!there("new") && opens(one, ks), "... and given up: nothing is left");
	ok(mkdir(in("old"), 0700) == 0 && keydir_rewrap_begin(dir, false, &r, &err) == -1, "after a change cut off");
	is_err(&err, ERR_REFUSED, "was cut off", "... it must be repaired first");
	ok(opens(one, ks) && keydir_read_info(dir, &info, &err) == 0 && info.cut_off, "... though it opens, and says so");
	rmdir(in("old"));
	keyset_free(ks);
}

/* What a change was cut off in the middle of. */
struct change {
	const struct keyset *before, *after;
};

static int
replace_work(void *arg)
{
	struct change *c = arg;
	struct err err = {0};

	return keydir_replace(dir, c->after, other, "file:/other", &err) == 0 ? 0 : 1;
}

static int
create_work(void *arg)
{
	struct change *c = arg;
	struct err err = {0};

	return keydir_create(dir, c->before, one, "file:/kek", &err) == 0 ? 0 : 1;
}

static int
repair_work(void *arg)
{
	struct err err = {0};
	const char *did;

	(void)arg;
	return keydir_repair(dir, &did, &err) == 0 ? 0 : 1;
}

/* Either the keys from before or those from after; never something else, and never nothing. */
static bool
is_readable(const struct change *c)
{
	return opens(one, c->before) || opens(other, c->after);
}

static bool
is_whole(const struct change *c)
{
	return !there("new") && !there("old") && is_readable(c);
}

static void
power_cuts_replace(void)
{
	struct keyset *before = sample_keyset(KEY_AES256), *after;
	struct keyset_epoch epochs[2] = {{.number = 1}, {.number = 2, .after_timeline = 4}};
	struct data_key relation;
	struct change c = {.before = before};
	struct err err = {0};
	int n, cuts = 0, double_cuts = 0, bad = 0, refused_wrongly = 0, before_repair = 0, unreadable = 0;

	sample_key(&relation, KEY_AES256, 90);
	sample_key(&epochs[0].key, KEY_AES256, 91);
	sample_key(&epochs[1].key, KEY_AES256, 92);
	c.after = after = keyset_new(KEY_AES256, 7, &relation, epochs, 2, &err);
	for (n = 1;; n++) {
		create_sample(before);
		if (crashcall_run(n, replace_work, &c) != CRASHCALL_STATUS)
			break;
		cuts++;
		before_repair += is_whole(&c);
		unreadable += !is_readable(&c);
		/* repair itself is cut off, too, at each of its steps, and then run to its end */
		for (int m = 1;; m++) {
			int status;

			if (m > 1) {
				create_sample(before);
				crashcall_run(n, replace_work, &c);
			}
			status = crashcall_run(m, repair_work, NULL);
			if (status == CRASHCALL_STATUS) {
				double_cuts++;
				status = crashcall_run(0, repair_work, NULL);
			} else
				m = 0; /* it came to its end */
			refused_wrongly += status != 0;
			bad += !is_whole(&c);
			if (m == 0)
				break;
		}
	}
	ok(opens(other, after) && !there("old") && !there("new"), "a change of %d steps that is left alone succeeds",
	   n - 1);
	ok(cuts > 30, "cut off at each of %d steps", cuts);
	is_int(unreadable, 0, "... the old cluster key or the new one opens it, before any repair");
	ok(double_cuts > cuts, "... and its repair at each of its own, %d times in all", double_cuts);
	is_int(refused_wrongly, 0, "... repair never fails");
	is_int(bad, 0, "... and leaves the keys from before or those from after");
	ok(before_repair > 0 && before_repair < cuts, "(%d of the cuts needed no repair)", before_repair);
	keyset_free(before);
	keyset_free(after);
}

static void
power_cuts_create(void)
{
	struct keyset *ks = sample_keyset(KEY_AES256);
	struct change c = {.before = ks};
	struct err err = {0};
	int n, bad = 0;

	for (n = 1;; n++) {
		dir_remove();
		if (crashcall_run(n, create_work, &c) != CRASHCALL_STATUS)
			break;
		if (opens(one, ks))
			continue;
		if (access(dir, F_OK) == 0 && !keydir_exists(dir) && there("new") && repair_work(NULL) != 0)
			bad++;
		if (keydir_create(dir, ks, one, "file:/kek", &err) != 0 || !opens(one, ks))
			bad++;
	}
	ok(n > 15, "making one cut off at each of %d steps", n - 1);
	is_int(bad, 0, "... it can be repaired and made again");
	ok(opens(one, ks), "left alone it succeeds");
	keyset_free(ks);
}

static void
repairs(void)
{
	struct keyset *ks = sample_keyset(KEY_AES256);
	const char *did = NULL;
	struct err err = {0};

	create_sample(ks);
	ok(keydir_repair(dir, &did, &err) == 0 && strcmp(did, "nothing to do") == 0, "nothing to repair");
	ok(rename(in("live"), in("old")) == 0, "only old/ is left");
	is_int(keydir_repair(dir, &did, &err), -1, "... no cut-off change does that");
	is_err(&err, ERR_REFUSED, "in a state that no cut-off change leaves", "... and repair keeps away from it");
	ok(there("old") && mkdir(in("new"), 0700) == 0, "beside an empty new/");
	ok(keydir_repair(dir, &did, &err) == 0 && strstr(did, "put the old ones back") != NULL && opens(one, ks),
	   "... the old keys come back");
	is_int(keydir_repair("/nonexistent", &did, &err), -1, "nowhere");
	keyset_free(ks);
}

static int
open_once(void *arg)
{
	struct err err = {0};
	struct keyset *ks = keydir_open(dir, one, &err);

	(void)arg;
	if (ks == NULL)
		return err.text[0] != '\0' && err.class != ERR_WRONG_KEY && err.class != ERR_DAMAGED ? -1 : 1;
	keyset_free(ks);
	return 0;
}

/* The cluster key of an envelope provider lies beside the keys, and goes with it. */
static void
wrapped_keys(void)
{
	struct keyset *ks = sample_keyset(KEY_AES256);
	struct kek *envelope = kek_of(0x33);
	struct err err = {0};
	uint8_t *data;
	size_t len;

	envelope->wrapped_len = 3;
	memcpy(envelope->wrapped, "abc", 3);
	dir_remove();
	is_int(keydir_create(dir, ks, envelope, "x", &err), 0, "made under an envelope's key");
	data = durable_read(in("live/kek.wrapped"), 100, &len, &err);
	ok(data != NULL && len == 3 && memcmp(data, "abc", 3) == 0, "... kek.wrapped has what the provider wrapped");
	free(data);
	ok(opens(envelope, ks), "... it opens");
	memcpy(envelope->wrapped, "defg", 4);
	envelope->wrapped_len = 4;
	is_int(keydir_replace(dir, ks, envelope, "x", &err), 0, "replaced");
	data = durable_read(in("live/kek.wrapped"), 100, &len, &err);
	ok(data != NULL && len == 4 && memcmp(data, "defg", 4) == 0, "... with the new wrapping");
	free(data);
	is_int(keydir_replace(dir, ks, one, "file:/kek", &err), 0, "replaced under a store's key");
	ok(!there("live/kek.wrapped") && opens(one, ks), "... kek.wrapped is gone");
	kek_free(envelope);
	keyset_free(ks);
}

int
main(void)
{
	sample_secmem(256 * 1024);
	if (mkdtemp(folder) == NULL)
		return 1;
	snprintf(dir, sizeof(dir), "%s/keys", folder);
	one = kek_of(0x11);
	other = kek_of(0x22);
	good();
	wrong_ones();
	mixed();
	side_files();
	rewraps();
	wrapped_keys();
	power_cuts_replace();
	power_cuts_create();
	repairs();
	ok(failmalloc_each(open_once, NULL) > 5,
	   "each allocation failing: reported, and never called damage or a wrong key");
	dir_remove();
	rmdir(folder);
	kek_free(one);
	kek_free(other);
	is_int(secmem_used(), 0, "no key is left in memory");
	return tap_done();
}
