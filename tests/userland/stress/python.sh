# SPDX-License-Identifier: GPL-2.0-or-later
# Python's own test modules for what computes: arithmetic, text, data, compressors, the interpreter itself.
python3 -m test -j "$(nproc)" --timeout 1700 \
    test_math test_cmath test_float test_complex test_long test_int test_decimal test_fractions test_statistics \
    test_random test_struct test_array test_memoryview test_bytes test_unicode test_codecs test_re test_json \
    test_pickle test_marshal test_zlib test_bz2 test_lzma test_hashlib test_hmac test_binascii test_strtod \
    test_datetime test_exceptions test_generators test_dict test_set test_list test_sort test_heapq test_itertools \
    test_functools test_compile test_ast test_gc test_weakref
echo good
