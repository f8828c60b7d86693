/* version: of all programs of one build. */
#ifndef COMMON_VERSION_H
#define COMMON_VERSION_H

#define WALCRYPT_VERSION "0.1.0"

#endif
