#include "storage/tempfile.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "storage/process.h"
#include "storage/raw.h"
#include "storage/run.h"
#include "walcrypt/cipher.h"
#include "walcrypt/digest.h"
#include "walcrypt/random.h"
#include "walcrypt/secmem.h"

#define UNIT_LEN 8192
#define XTS_MIN_LEN 16
#define ROUNDS 10

#define LASTING_INFO "walcrypt lasting file v1"
#define MATERIAL_LEN (64 + 32 + 32) /* XTS, the short unit's cipher, the paths' HMAC */

static struct {
	struct cipher *enc, *dec, *prf;
	uint8_t *mac; /* 32 bytes in secmem */
} keyed[2];

static int
use_material(enum tempfile_key which, const uint8_t material[static MATERIAL_LEN], struct err *err)
{
	if ((keyed[which].mac = secmem_alloc(32, err)) == NULL ||
	    (keyed[which].enc = cipher_new(CIPHER_XTS_ENCRYPT, material, 64, err)) == NULL ||
	    (keyed[which].dec = cipher_new(CIPHER_XTS_DECRYPT, material, 64, err)) == NULL ||
	    (keyed[which].prf = cipher_new(CIPHER_CTR, material + 64, 32, err)) == NULL)
		return -1;
	memcpy(keyed[which].mac, material + 96, 32);
	return 0;
}

int
tempfile_init(const struct data_key *relation_key, struct err *err)
{
	uint8_t material[MATERIAL_LEN];
	int rc = -1;

	if (random_bytes(material, sizeof(material), err) == 0 && use_material(TEMPFILE_TEMPORARY, material, err) == 0 &&
	    key_derive(relation_key->bytes, (size_t)relation_key->len, LASTING_INFO, material, sizeof(material), err) == 0)
		rc = use_material(TEMPFILE_LASTING, material, err);
	secmem_wipe(material, sizeof(material));
	return rc;
}

int
tempfile_tweak(enum tempfile_key key, const char *path, uint8_t tweak[static TEMPFILE_TWEAK_LEN])
{
	uint8_t mac[32];
	struct err err;

	if (keyed[key].mac == NULL)
		return -1;
	if (hmac_sha256(keyed[key].mac, 32, path, strlen(path), mac, &err) != 0)
		process_die(&err);
	memcpy(tweak, mac, TEMPFILE_TWEAK_LEN);
	return 0;
}

static void
make_iv(uint8_t iv[static CIPHER_IV_LEN], const uint8_t *tweak, uint32_t unit)
{
	memcpy(iv, tweak, TEMPFILE_TWEAK_LEN);
	for (int i = 0; i < 4; i++)
		iv[TEMPFILE_TWEAK_LEN + i] = (uint8_t)(unit >> 8 * i);
}

/* The first block of CTR keystream from counter block iv is AES(iv): a function of 16 bytes to 16 bytes. */
static int
prf(enum tempfile_key key, const uint8_t in[static 16], uint8_t out[static 16], struct err *err)
{
	static const uint8_t zero[16];

	return cipher_run(keyed[key].prf, in, zero, out, 16, err);
}

/*
 * Fewer than 16 bytes: the high nibbles are one half, the low ones the other. A round changes one half by
 * AES(AES(tweak) xor (the other half, length, round)).
 */
static int
feistel(bool encrypt, enum tempfile_key key, const uint8_t iv[static CIPHER_IV_LEN], uint8_t *data, size_t len,
        struct err *err)
{
	uint8_t base[16], in[16], out[16];

	if (prf(key, iv, base, err) != 0)
		return -1;
	for (int i = 0; i < ROUNDS; i++) {
		int round = encrypt ? i : ROUNDS - 1 - i;
		int changed = round % 2 != 0 ? 4 : 0, kept = 4 - changed;

		memcpy(in, base, sizeof(in));
		for (size_t j = 0; j < len; j++)
			in[j] ^= (uint8_t)(data[j] >> kept & 15);
		in[15] ^= (uint8_t)(len << 4 | (unsigned)round);
		if (prf(key, in, out, err) != 0)
			return -1;
		for (size_t j = 0; j < len; j++)
			data[j] ^= (uint8_t)((out[j] & 15) << changed);
	}
	secmem_wipe(base, sizeof(base));
	return 0;
}

int
tempfile_unit(bool encrypt, enum tempfile_key key, const uint8_t tweak[static TEMPFILE_TWEAK_LEN], uint32_t unit,
              uint8_t *data, size_t len, struct err *err)
{
	uint8_t iv[CIPHER_IV_LEN];

	make_iv(iv, tweak, unit);
	if (len < XTS_MIN_LEN)
		return feistel(encrypt, key, iv, data, len, err);
	return cipher_run(encrypt ? keyed[key].enc : keyed[key].dec, iv, data, data, len, err);
}

static enum tempfile_key
key_of(const struct file *f)
{
	return f->lasting ? TEMPFILE_LASTING : TEMPFILE_TEMPORARY;
}

static int
unit_or_fail(bool encrypt, int fd, const struct file *f, off_t unit, uint8_t *data, size_t len)
{
	struct err err;

	if (tempfile_unit(encrypt, key_of(f), f->tweak, (uint32_t)unit, data, len, &err) != 0)
		return process_fail(&err, fd);
	return 0;
}

/* The unit as it stands in the file, decrypted, into buf[UNIT_LEN]: how many bytes it has, or -1. Its length says how
 * the last one is encrypted, so it is read whole and the file's size is not asked for. */
static ssize_t
load_unit(int fd, const struct file *f, off_t unit, uint8_t *buf)
{
	ssize_t n = raw_pread_full(fd, buf, UNIT_LEN, unit * UNIT_LEN);

	return n > 0 && unit_or_fail(false, fd, f, unit, buf, (size_t)n) != 0 ? -1 : n;
}

/* The same when it must have so many. */
static int
load_known(int fd, const struct file *f, off_t unit, uint8_t *buf, size_t have)
{
	ssize_t n = load_unit(fd, f, unit, buf);

	if (n >= 0 && (size_t)n != have)
		errno = EIO;
	return n >= 0 && (size_t)n == have ? 0 : -1;
}

static int
store_unit(int fd, const struct file *f, off_t unit, uint8_t *buf, size_t len)
{
	if (unit_or_fail(true, fd, f, unit, buf, len) != 0)
		return -1;
	return raw_pwrite_units(fd, buf, len, unit * UNIT_LEN, len) == (ssize_t)len ? 0 : -1;
}

static size_t
unit_have(off_t size, off_t unit)
{
	off_t start = unit * UNIT_LEN;

	return size <= start ? 0 : size - start < UNIT_LEN ? (size_t)(size - start) : UNIT_LEN;
}

static off_t
file_size(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 ? st.st_size : -1;
}

static ssize_t
read_range(int fd, const struct file *f, uint8_t *buf, size_t len, off_t off)
{
	uint8_t unit_buf[UNIT_LEN];
	size_t done = 0;

	while (done < len) {
		off_t at = off + (off_t)done, unit = at / UNIT_LEN;
		size_t skip = (size_t)(at % UNIT_LEN), n;
		bool whole = skip == 0 && len - done >= UNIT_LEN;
		ssize_t have = load_unit(fd, f, unit, whole ? buf + done : unit_buf);

		if (have < 0)
			return done > 0 ? (ssize_t)done : -1;
		if ((size_t)have <= skip)
			break;
		n = (size_t)have - skip;
		if (n > len - done)
			n = len - done;
		if (!whole)
			memcpy(buf + done, unit_buf + skip, n);
		done += n;
		if (have < UNIT_LEN)
			break;
	}
	return (ssize_t)done;
}

/* Bytes [off, off + len) of one unit, in a file of size bytes; off is at most what the unit has. */
static int
write_in_unit(int fd, const struct file *f, off_t size, off_t off, const uint8_t *data, size_t len)
{
	uint8_t buf[UNIT_LEN];
	off_t unit = off / UNIT_LEN;
	size_t skip = (size_t)(off % UNIT_LEN), have = unit_have(size, unit);

	if ((skip > 0 || skip + len < have) && load_known(fd, f, unit, buf, have) != 0)
		return -1;
	if (data != NULL)
		memcpy(buf + skip, data, len);
	else
		memset(buf + skip, 0, len);
	return store_unit(fd, f, unit, buf, skip + len > have ? skip + len : have);
}

/* data NULL: zeros. */
static ssize_t
write_range(int fd, const struct file *f, off_t size, off_t off, const uint8_t *data, size_t len)
{
	size_t done = 0;

	while (done < len) {
		off_t at = off + (off_t)done;
		size_t n = UNIT_LEN - (size_t)(at % UNIT_LEN);

		if (n > len - done)
			n = len - done;
		if (write_in_unit(fd, f, size, at, data != NULL ? data + done : NULL, n) != 0)
			return done > 0 ? (ssize_t)done : -1;
		done += n;
		if (at + (off_t)n > size)
			size = at + (off_t)n;
	}
	return (ssize_t)done;
}

static ssize_t
write_anywhere(int fd, const struct file *f, const uint8_t *data, size_t len, off_t off)
{
	off_t size = file_size(fd);

	if (size < 0)
		return -1;
	/* a hole would read as garbage */
	if (off > size && write_range(fd, f, size, size, NULL, (size_t)(off - size)) != (ssize_t)(off - size))
		return -1;
	return write_range(fd, f, size > off ? size : off, off, data, len);
}

static int
truncate_to(int fd, const struct file *f, off_t len)
{
	uint8_t buf[UNIT_LEN];
	off_t size = file_size(fd), unit = len / UNIT_LEN;
	size_t keep = (size_t)(len % UNIT_LEN);

	if (size < 0)
		return -1;
	if (len >= size)
		return write_range(fd, f, size, size, NULL, (size_t)(len - size)) == (ssize_t)(len - size) ? 0 : -1;
	if (keep == 0)
		return raw_ftruncate(fd, len);
	/* ciphertext stealing: the last bytes depend on the unit's length */
	if (load_known(fd, f, unit, buf, unit_have(size, unit)) != 0 || raw_ftruncate(fd, len) != 0)
		return -1;
	return store_unit(fd, f, unit, buf, keep);
}

ssize_t
tempfile_read(int fd, const struct file *f, uint8_t *buf, size_t len, off_t off)
{
	ssize_t n;

	if (off < 0) {
		errno = EINVAL;
		return -1;
	}
	if (!f->lasting)
		return read_range(fd, f, buf, len, off);
	run_files_lock();
	n = read_range(fd, f, buf, len, off);
	run_files_unlock();
	return n;
}

ssize_t
tempfile_write(int fd, const struct file *f, const uint8_t *data, size_t len, off_t off)
{
	ssize_t n;

	if (off < 0) {
		errno = EINVAL;
		return -1;
	}
	if (!f->lasting)
		return write_anywhere(fd, f, data, len, off);
	run_files_lock();
	n = write_anywhere(fd, f, data, len, off);
	run_files_unlock();
	return n;
}

int
tempfile_truncate(int fd, const struct file *f, off_t len)
{
	int rc;

	if (!f->lasting)
		return truncate_to(fd, f, len);
	run_files_lock();
	rc = truncate_to(fd, f, len);
	run_files_unlock();
	return rc;
}
