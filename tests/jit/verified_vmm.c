/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The VMM, whose translated code is verified before it is forgotten and when the VM ends: a fault
 * ends it with status 99. */
#include "verify.h"

#include <stdlib.h>

#undef main
int vmm_program(int argc, char **argv); /* main() of src/vmm/main.c under another name */

int main(int argc, char **argv)
{
    jit_inspect = verify_or_die;
    int status = vmm_program(argc, argv);
    verify_print_total();
    return status;
}
