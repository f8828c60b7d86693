/* hex: bytes as hexadecimal digits. Whose text is a key brings locked memory for it. */
#ifndef COMMON_HEX_H
#define COMMON_HEX_H

#include <stddef.h>
#include <stdint.h>

/* 0 to 15, or -1. */
int hex_digit(char c);
/* 2 * len lower-case digits, without a NUL. */
void hex_encode(const uint8_t *data, size_t len, char *out);
/* Exactly 2 * len digits of text, or -1. */
int hex_decode(const char *text, size_t text_len, uint8_t *out, size_t len);

#endif
