#include <openssl/evp.h>

#include "certificates.h"
