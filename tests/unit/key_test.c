/* Data keys: RFC 5649 and NIST key wrap, RFC 5869, CFE's .wkey file, key ids. */
#include "walcrypt/key.h"

#include <stdlib.h>

#include "tests/unit/failmalloc.h"
#include "tests/unit/sample.h"
#include "tests/unit/tap.h"
#include "tests/unit/vectors.h"
#include "walcrypt/secmem.h"

static void
kwp_row(const struct vector *v)
{
	uint8_t kek[32], pt[256], ct[256], out[264];
	size_t kek_len = vector_bytes(v, 0, kek, sizeof(kek)), len = vector_bytes(v, 1, pt, sizeof(pt));
	size_t ct_len = vector_bytes(v, 2, ct, sizeof(ct));
	struct err err = {0};
	int n;

	if (len == 0) {
		memset(out, 7, sizeof(out));
		is_int(kwp_unwrap(kek, kek_len, ct, ct_len, out, &err), -1, "kwp.txt:%d: refused", v->number);
		is_err(&err, ERR_WRONG_KEY, "does not open", "... as a wrong key");
		ok(out[0] == 0 && memcmp(out, out + 1, ct_len - 1) == 0, "... nothing let out");
		return;
	}
	n = kwp_wrap(kek, kek_len, pt, len, out, &err);
	ok(n == (int)ct_len && memcmp(out, ct, ct_len) == 0, "kwp.txt:%d: wraps", v->number);
	n = kwp_unwrap(kek, kek_len, ct, ct_len, out, &err);
	ok(n == (int)len && memcmp(out, pt, len) == 0, "kwp.txt:%d: unwraps", v->number);
	for (size_t i = 0; i < ct_len; i += 5) {
		ct[i] ^= 0x10;
		if (kwp_unwrap(kek, kek_len, ct, ct_len, out, &err) != -1)
			break;
		ct[i] ^= 0x10;
		if (i + 5 >= ct_len)
			ok(true, "kwp.txt:%d: changed anywhere, refused", v->number);
	}
	ok(kwp_unwrap(kek, kek_len, ct, ct_len - 8, out, &err) == -1, "kwp.txt:%d: truncated by 8, refused", v->number);
	ok(kwp_unwrap(kek, kek_len, ct, ct_len - 1, out, &err) == -1, "kwp.txt:%d: truncated by 1, refused", v->number);
	kek[0] ^= 1;
	ok(kwp_unwrap(kek, kek_len, ct, ct_len, out, &err) == -1, "kwp.txt:%d: wrong key, refused", v->number);
}

static void
hkdf_row(const struct vector *v)
{
	uint8_t ikm[128], salt[128], info[128], okm[128], out[128];
	size_t ikm_len = vector_bytes(v, 0, ikm, sizeof(ikm)), salt_len = vector_bytes(v, 1, salt, sizeof(salt));
	size_t info_len = vector_bytes(v, 2, info, sizeof(info)), len = vector_bytes(v, 3, okm, sizeof(okm));
	struct err err = {0};

	ok(key_hkdf(salt, salt_len, ikm, ikm_len, info, info_len, out, len, &err) == 0 && memcmp(out, okm, len) == 0,
	   "hkdf.txt:%d", v->number);
	ok(key_hkdf(salt, salt_len, ikm, ikm_len, info, info_len, out, len - 1, &err) == 0 &&
	       memcmp(out, okm, len - 1) == 0,
	   "hkdf.txt:%d: shorter is a prefix", v->number);
	if (salt_len == 0 && info_len == 0)
		ok(key_derive(ikm, ikm_len, "", out, len, &err) == 0 && memcmp(out, okm, len) == 0, "... and by key_derive");
}

/* .wkey files and key ids that python made */
static void
wkey_rows(void)
{
	struct vector v;
	int n = 0;

	for (vector_open(&v, "keyset.txt"); vector_next(&v);) {
		uint8_t kek[32], plain[32], file[64], mine[48];
		struct data_key key;
		struct err err = {0};
		char hex[KEY_ID_HEX_LEN];

		if (strcmp(v.word[0], "id") == 0) {
			size_t len = vector_bytes(&v, 1, plain, sizeof(plain));

			key_id_hex(plain, len, hex, &err);
			is_str(hex, v.word[2], "keyset.txt:%d: key id", v.number);
			n++;
		}
		if (strcmp(v.word[0], "wkey") == 0) {
			size_t len = vector_bytes(&v, 2, plain, sizeof(plain));

			vector_bytes(&v, 1, kek, sizeof(kek));
			is_int(vector_bytes(&v, 3, file, sizeof(file)), KEY_WRAPPED_LEN, "keyset.txt:%d: 48 bytes", v.number);
			ok(key_unwrap(kek, file, &key, &err) == 0 && key.len == (int)len && memcmp(key.bytes, plain, len) == 0,
			   "keyset.txt:%d: unwrapped", v.number);
			ok(key_wrap(kek, &key, mine, &err) == 0 && memcmp(mine, file, 48) == 0, "keyset.txt:%d: wrapped alike",
			   v.number);
			for (int i = 0; i < 48; i++) {
				file[i] ^= 1;
				if (key_unwrap(kek, file, &key, &err) != -1 || key.len != 0 || key.bytes[0] != 0 ||
				    err.class != ERR_WRONG_KEY)
					ok(false, "keyset.txt:%d: byte %d changed, refused", v.number, i);
				file[i] ^= 1;
			}
			n++;
		}
	}
	ok(n == 6, "key ids and .wkey files: %d", n);
}

/* what opens under the right key but cannot be one of ours */
static void
strange_wkey(void)
{
	static const uint8_t kek[32] = {5};
	struct {
		int32_t klen;
		uint8_t key[32];
	} w = {.klen = 17, .key = {1}};
	uint8_t file[KEY_WRAPPED_LEN];
	struct data_key key;
	struct err err = {0};

	kwp_wrap(kek, 32, (uint8_t *)&w, sizeof(w), file, &err);
	is_int(key_unwrap(kek, file, &key, &err), -1, "a key of 17 bytes");
	is_err(&err, ERR_DAMAGED, "holds no key", "... is damage, not a wrong key");
	w.klen = 16;
	w.key[16] = 1;
	kwp_wrap(kek, 32, (uint8_t *)&w, sizeof(w), file, &err);
	is_int(key_unwrap(kek, file, &key, &err), -1, "a key with bytes behind it");
	is_err(&err, ERR_DAMAGED, "bytes behind", "... is damage");
	/* 39 bytes wrap to 48 as well */
	{
		uint8_t longer[39] = {16};

		kwp_wrap(kek, 32, longer, sizeof(longer), file, &err);
		is_int(key_unwrap(kek, file, &key, &err), -1, "another length that wraps to 48 bytes");
		is_err(&err, ERR_DAMAGED, "holds no key", "... is damage");
	}
}

static int
all_once(void *arg)
{
	static const uint8_t kek[32] = {5};
	struct data_key key, back;
	uint8_t file[KEY_WRAPPED_LEN];
	char hex[KEY_ID_HEX_LEN];
	struct err err = {0};
	int rc = 0;

	(void)arg;
	sample_key(&key, KEY_AES256, 1);
	rc |= key_wrap(kek, &key, file, &err);
	rc |= rc != 0 ? rc : key_unwrap(kek, file, &back, &err);
	rc |= rc != 0 ? rc : key_id_hex(key.bytes, 32, hex, &err);
	if (rc != 0)
		return err.class == ERR_NONE ? 1 : -1;
	return 0;
}

int
main(void)
{
	static const struct {
		const char *name;
		enum key_method method;
		int len;
	} methods[] = {{"AES128", KEY_AES128, 16}, {"AES192", KEY_AES192, 24}, {"AES256", KEY_AES256, 32}};
	struct data_key a, b;
	enum key_method m;
	uint8_t out[255 * 32 + 1];
	struct vector v;
	struct err err = {0};

	sample_secmem(65536);
	for (vector_open(&v, "kwp.txt"); vector_next(&v);)
		kwp_row(&v);
	for (vector_open(&v, "hkdf.txt"); vector_next(&v);)
		hkdf_row(&v);
	wkey_rows();
	strange_wkey();

	for (size_t i = 0; i < 3; i++) {
		is_str(key_method_name(methods[i].method), methods[i].name, "name of %s", methods[i].name);
		ok(key_method_parse(methods[i].name, &m) == 0 && m == methods[i].method, "parsing %s", methods[i].name);
		ok(key_generate(m, &a, &err) == 0 && key_generate(m, &b, &err) == 0 && a.len == methods[i].len &&
		       memcmp(a.bytes, b.bytes, (size_t)a.len) != 0,
		   "two fresh keys of %s differ", methods[i].name);
		for (int k = a.len; k < KEY_MAX_LEN; k++)
			if (a.bytes[k] != 0)
				ok(false, "zero behind the key");
	}
	ok(key_method_parse("aes192", &m) == 0 && m == KEY_AES192, "in any case");
	ok(key_method_parse("AES512", &m) == -1 && key_method_parse("", &m) == -1, "unknown methods");
	is_int(key_generate((enum key_method)9, &a, &err), -1, "no key of an unknown method");

	ok(key_derive(a.bytes, 16, "x", out, 255 * 32, &err) == 0, "the longest derivation");
	is_int(key_derive(a.bytes, 16, "x", out, sizeof(out), &err), -1, "one byte more is refused");
	is_int(kwp_wrap(out, 15, out, 8, out, &err), -1, "a cluster key of 15 bytes is refused");
	is_int(kwp_wrap(out, 32, out, 0, out, &err), -1, "nothing to wrap is refused");
	ok(failmalloc_each(all_once, NULL) > 0, "with each allocation failing");
	is_int(secmem_used(), 0, "nothing is left in secure memory");
	return tap_done();
}
