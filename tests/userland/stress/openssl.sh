# SPDX-License-Identifier: GPL-2.0-or-later
# openssl: what its assembly computes equals what its C computes and what the host says; speed runs every primitive.
perl -e 'print pack("C*", map { $_ % 251 } 0 .. 1000002)' >data
for size in 0 1 55 56 63 64 65 111 112 127 128 129 1000 65537 1000003; do
    head -c $size data >part
    for algorithm in md5 sha1 sha224 sha256 sha384 sha512 sha3-256 sha3-512 blake2b512; do
        name=$(echo $algorithm | sed 's/blake2b512/blake2b/;s/^sha3-/sha3_/')
        echo "host $name $size $(openssl dgst -r -$algorithm part | cut -d' ' -f1)"
    done
done
key=000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
iv=f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff
# ia32cap: all there is; no AES-NI and PCLMUL; no AVX; nothing at all.
for cipher in aes-128-cbc aes-192-ctr aes-256-cbc aes-256-ctr aes-256-ecb aria-256-ctr camellia-256-cbc chacha20; do
    for without in "" "~0x200000200000000" "~0x1000000000000000:~0x20" "~0xffffffffffffffff:~0xffffffffffffffff"; do
        export OPENSSL_ia32cap="$without"
        [ -n "$without" ] || unset OPENSSL_ia32cap
        openssl enc -$cipher -K $key -iv $iv -in data -out sealed
        echo "same $cipher: $(sha256sum <sealed)"
        openssl enc -d -$cipher -K $key -iv $iv -in sealed | cmp - data
    done
    unset OPENSSL_ia32cap
done
openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.pem
openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out p256.pem
openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-521 -out p521.pem
openssl genpkey -quiet -algorithm ED25519 -out ed25519.pem
for key in rsa p256 p521 ed25519; do
    openssl pkey -in $key.pem -pubout -out $key.pub
    head -c 64 data >part
    for i in 1 2 3 4 5; do
        case $key in
        ed25519) raw=-rawin ;;
        *) raw= ;;
        esac
        openssl pkeyutl -sign -inkey $key.pem $raw -in part -out signature
        # Once by the code for this CPU, once by the plainest.
        openssl pkeyutl -verify -pubin -inkey $key.pub $raw -in part -sigfile signature
        OPENSSL_ia32cap="~0xffffffffffffffff:~0xffffffffffffffff" \
            openssl pkeyutl -verify -pubin -inkey $key.pub $raw -in part -sigfile signature
    done
done
openssl rsa -in rsa.pem -check -noout
openssl prime -generate -bits 512
openssl speed -seconds 1 -bytes 8192 md5 sha256 sha512 aes-128-cbc aes-256-cbc ghash rsa2048 ecdsap256 ecdhx25519 eddsa
echo good
