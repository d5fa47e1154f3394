// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * last-bytes: what libxenvchan_read returns when the peer writes and closes
 * meanwhile, for each instruction of it at which that can happen.
 *
 *   last-bytes COUNT
 *
 * The C library serves a client that does not exist: this program plays it, in
 * the shared page. It runs a non-blocking read under the processor's trap flag,
 * instruction by instruction, and before the Kth publishes COUNT bytes and then
 * clears the client's live byte, as a client does that writes and closes. It
 * prints a line for each K, until the read is over before its Kth instruction:
 *
 *   K RETURNED READY
 *
 * what the read returned, and what libxenvchan_data_ready says after it.
 * Exit status: 0 done; 2 usage; 3 there is no channel.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#include <libxenvchan.h>

#if !defined(__x86_64__)
#error "the trap flag is set as x86-64 has it"
#endif

#define TRAP_FLAG 0x100

static struct libxenvchan *channel;
static uint32_t count;

/* Instructions until the client acts; negative: it has. */
static volatile long left;

static void trap(int signal, siginfo_t *info, void *context)
{
	volatile struct vchan_interface *page = channel->ring;
	ucontext_t *interrupted = context;

	(void)signal;
	(void)info;
	if (left-- > 0)
		return;
	page->left.prod += count;
	page->cli_live = 0;
	interrupted->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
}

/* The flag takes effect after the instruction that follows. The red zone is left alone. */
static inline __attribute__((always_inline)) void set_trap_flag(void)
{
	__asm__ volatile("subq $128, %%rsp\n\tpushfq\n\torq %0, (%%rsp)\n\tpopfq\n\taddq $128, %%rsp"
			 : : "i"(TRAP_FLAG) : "memory", "cc");
}

static inline __attribute__((always_inline)) void clear_trap_flag(void)
{
	__asm__ volatile("subq $128, %%rsp\n\tpushfq\n\tandq %0, (%%rsp)\n\tpopfq\n\taddq $128, %%rsp"
			 : : "i"(~TRAP_FLAG) : "memory", "cc");
}

int main(int argc, char **argv)
{
	static unsigned char bytes[4096];
	struct sigaction action = { .sa_sigaction = trap, .sa_flags = SA_SIGINFO };

	count = argc == 2 ? (uint32_t)strtoul(argv[1], NULL, 10) : 0;
	if (!count || count > sizeof(bytes))
		return 2;
	channel = libxenvchan_server_init(NULL, 0, "data/vchan", sizeof(bytes), sizeof(bytes));
	if (!channel)
		return 3;
	channel->blocking = 0;
	sigaction(SIGTRAP, &action, NULL);

	volatile struct vchan_interface *page = channel->ring;
	for (long instruction = 0;; instruction++) {
		page->left.prod = page->left.cons;
		page->cli_live = 1;
		left = instruction;
		set_trap_flag();
		int returned = libxenvchan_read(channel, bytes, sizeof(bytes));
		clear_trap_flag();
		/* What is left over was to happen only after the read. */
		if (left >= 0)
			break;
		printf("%ld %d %d\n", instruction, returned, libxenvchan_data_ready(channel));
	}
	libxenvchan_close(channel);
	return 0;
}
