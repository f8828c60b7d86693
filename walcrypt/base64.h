/* base64: RFC 4648 section 4, with padding, strict: one text for each byte string. */
#ifndef WALCRYPT_BASE64_H
#define WALCRYPT_BASE64_H

#include <stddef.h>
#include <stdint.h>

/* Length of the text of n bytes, without its NUL. */
#define BASE64_LEN(n) (((n) + 2) / 3 * 4)

/* Writes BASE64_LEN(len) characters and a NUL. */
void base64_encode(const uint8_t *in, size_t len, char *out);
/*
 * base64_decode(text, len, out, max): the bytes of len characters.
 *   returns their number; -1 when it is no base64 text (other characters, missing padding, bits that no byte has) or
 *           holds more than max bytes
 */
int base64_decode(const char *text, size_t len, uint8_t *out, size_t max);

#endif
