#include "walcrypt/certificate.h"

#include <openssl/pem.h>
#include <openssl/x509.h>

int
certificate_end(const void *pem, size_t len, time_t *end, struct err *err)
{
	BIO *bio = BIO_new_mem_buf(pem, (int)len);
	X509 *certificate = bio != NULL ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
	struct tm tm;
	int result = 0;

	if (certificate == NULL || ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &tm) != 1)
		result = err_set(err, ERR_FAILED, "there is no certificate in PEM");
	else
		*end = timegm(&tm);
	X509_free(certificate);
	BIO_free(bio);
	return result;
}
