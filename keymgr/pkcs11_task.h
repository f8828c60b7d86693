/*
 * pkcs11_task: one thing that is asked of a token, from the loading of the module to the end of the session. Between
 * keymgr/pkcs11.c and itself: it may hang, so it is done in a thread that can be left behind.
 */
#ifndef KEYMGR_PKCS11_TASK_H
#define KEYMGR_PKCS11_TASK_H

#include "keymgr/pkcs11.h"

/* Its own copies of all it needs: whoever asked may be gone. In secure memory. */
struct pkcs11_task {
	enum pkcs11_what what;
	char module[1024], token[64], label[300], pin[PKCS11_PIN_MAX];
	uint8_t iv[PKCS11_IV_LEN], in[PKCS11_DATA_MAX + PKCS11_TAG_LEN], out[PKCS11_DATA_MAX + PKCS11_TAG_LEN];
	size_t len, out_len;
	char *list; /* of PKCS11_LIST: labels and states in turn, each with its NUL; malloc'ed */
	size_t list_len;
};

/* Errors: those of pkcs11_run. */
int pkcs11_task_do(struct pkcs11_task *t, struct err *err);

#endif
