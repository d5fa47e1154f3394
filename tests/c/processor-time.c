// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * processor-time DOMID: how many nanoseconds the domain's first processor has run since the domain
 * was created, by Xen's own count. xl list has the same in tenths of a second.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <xenctrl.h>

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: processor-time DOMID\n");
		return 2;
	}
	xc_interface *xen = xc_interface_open(NULL, NULL, 0);
	if (!xen) {
		perror("processor-time: Xen");
		return 1;
	}
	xc_vcpuinfo_t processor;
	int failed = xc_vcpu_getinfo(xen, (uint32_t)strtoul(argv[1], NULL, 10), 0, &processor);
	if (failed)
		perror("processor-time: the domain");
	else
		printf("%" PRIu64 "\n", processor.cpu_time);
	xc_interface_close(xen);
	return failed ? 1 : 0;
}
