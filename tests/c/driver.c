// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * driver: makes the C library do, step by step, what a test asks for.
 *
 * Reads commands from standard input, one a line, and answers each with one
 * line on standard output. Uses nothing but the calls of <libxenvchan.h> and
 * the fields it declares.
 *
 *   server DOMID PATH READ_MIN WRITE_MIN   "ok", or "fail ERRNO"
 *   client DOMID PATH                      likewise; one attempt
 *   close                                  "ok"
 *   blocking 0|1                           "ok"; a new channel is non-blocking
 *   persist 0|1                            "ok"; server_persist
 *   write N | send N                       what the call returns
 *   read N | recv N                        what the call returns, then, when it is
 *                                          positive, the bytes' checksum
 *   ready | space | open | wait            what the call returns
 *   poll MS                                1 when the descriptor is readable within MS, else 0
 *   page N                                 the first N bytes of the control page, in hex
 *   exchange OUT IN CHUNK stream|datagram  writes OUT and reads IN bytes at the same time, in calls
 *                                          of CHUNK bytes, non-blocking, with poll; then
 *                                          "sent=N received=N checksum=HEX", preceded by "closed "
 *                                          when the peer closed before
 *   seed N                                 "ok"; begins the outgoing bytes anew
 *
 * What is written are pseudo-random bytes, of one sequence whatever the calls
 * (splitmix64, eight bytes a step, low byte first, from seed 1). Checksums are
 * FNV-1a, 64 bits. At the end of standard input the program exits without
 * closing anything. Exit status: 0 done; 2 a command was not understood.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libxenvchan.h>

/* The longest single call. */
#define LONGEST (2u << 20)

static unsigned char outgoing[LONGEST], incoming[LONGEST];
static struct libxenvchan *channel;

static void bad(const char *what)
{
	fprintf(stderr, "driver: %s\n", what);
	exit(2);
}

/* ---- the outgoing bytes ------------------------------------------------ */

static struct {
	uint64_t state, word;
	unsigned left;
} source = { .state = 1 };

static unsigned char next_byte(void)
{
	if (!source.left) {
		uint64_t z = (source.state += 0x9e3779b97f4a7c15u);
		z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
		z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
		source.word = z ^ (z >> 31);
		source.left = 8;
	}
	source.left--;
	unsigned char byte = (unsigned char)source.word;
	source.word >>= 8;
	return byte;
}

/* `outgoing` begins with the next bytes of the sequence; so many are there. */
static size_t prepared;

static void prepare(size_t size)
{
	while (prepared < size)
		outgoing[prepared++] = next_byte();
}

static void consume(int sent)
{
	if (sent > 0) {
		prepared -= (size_t)sent;
		memmove(outgoing, outgoing + sent, prepared);
	}
}

static uint64_t checksum(uint64_t hash, const unsigned char *data, size_t size)
{
	for (size_t i = 0; i < size; i++)
		hash = (hash ^ data[i]) * 0x100000001b3u;
	return hash;
}

#define CHECKSUM_START 0xcbf29ce484222325u

/* ---- commands ---------------------------------------------------------- */

static char *rest;

static const char *word(void)
{
	const char *next = strtok_r(NULL, " \n", &rest);
	if (!next)
		bad("a word is missing");
	return next;
}

static uint64_t number(uint64_t max)
{
	const char *text = word();
	char *end;
	errno = 0;
	unsigned long long value = strtoull(text, &end, 10);
	if (errno || end == text || *end || value > max)
		bad("not a number, or too large");
	return value;
}

static void opened(void)
{
	if (channel) {
		channel->blocking = 0; /* the library leaves it uninitialised */
		puts("ok");
	} else {
		printf("fail %d\n", errno);
	}
}

static void put(int (*call)(struct libxenvchan *, const void *, size_t))
{
	size_t size = number(LONGEST);
	prepare(size);
	int sent = call(channel, outgoing, size);
	consume(sent);
	printf("%d\n", sent);
}

static void get(int (*call)(struct libxenvchan *, void *, size_t))
{
	size_t size = number(LONGEST);
	int received = call(channel, incoming, size);
	if (received > 0)
		printf("%d %016" PRIx64 "\n", received,
		       checksum(CHECKSUM_START, incoming, (size_t)received));
	else
		printf("%d\n", received);
}

static size_t least(size_t a, uint64_t b)
{
	return a < b ? a : (size_t)b;
}

static void exchange(void)
{
	uint64_t out = number(UINT64_MAX), in = number(UINT64_MAX), sent = 0, received = 0;
	uint64_t hash = CHECKSUM_START;
	size_t chunk = number(LONGEST);
	bool datagram = !strcmp(word(), "datagram"), closed = false;

	channel->blocking = 0;
	while (sent < out || received < in) {
		int n = 0, m = 0;
		if (sent < out) {
			size_t size = least(chunk, out - sent);
			prepare(size);
			n = (datagram ? libxenvchan_send : libxenvchan_write)(channel, outgoing, size);
			consume(n);
			sent += n > 0 ? (uint64_t)n : 0;
		}
		if (received < in) {
			size_t size = least(chunk, in - received);
			m = (datagram ? libxenvchan_recv : libxenvchan_read)(channel, incoming, size);
			hash = checksum(hash, incoming, m > 0 ? (size_t)m : 0);
			received += m > 0 ? (uint64_t)m : 0;
		}
		if (n < 0 || m < 0) {
			closed = true;
			break;
		}
		if (!n && !m) {
			struct pollfd fd = { libxenvchan_fd_for_select(channel), POLLIN, 0 };
			if (poll(&fd, 1, -1) == 1)
				libxenvchan_wait(channel);
		}
	}
	printf("%ssent=%" PRIu64 " received=%" PRIu64 " checksum=%016" PRIx64 "\n",
	       closed ? "closed " : "", sent, received, hash);
}

static void execute(const char *command)
{
	bool is_server = !strcmp(command, "server");
	if (is_server || !strcmp(command, "client")) {
		int domid = (int)number(INT32_MAX);
		const char *path = word();
		if (channel)
			bad("there is a channel already");
		if (is_server) {
			size_t read_min = number(UINT32_MAX), write_min = number(UINT32_MAX);
			channel = libxenvchan_server_init(NULL, domid, path, read_min, write_min);
		} else {
			channel = libxenvchan_client_init(NULL, domid, path);
		}
		opened();
		return;
	}
	if (!strcmp(command, "seed")) {
		source.state = number(UINT64_MAX);
		source.left = 0;
		prepared = 0;
		puts("ok");
		return;
	}
	if (!channel)
		bad("there is no channel yet");
	if (!strcmp(command, "close")) {
		libxenvchan_close(channel);
		channel = NULL;
		puts("ok");
	} else if (!strcmp(command, "blocking")) {
		channel->blocking = number(1) ? 1 : 0;
		puts("ok");
	} else if (!strcmp(command, "persist")) {
		channel->server_persist = number(1) ? 1 : 0;
		puts("ok");
	} else if (!strcmp(command, "write")) {
		put(libxenvchan_write);
	} else if (!strcmp(command, "send")) {
		put(libxenvchan_send);
	} else if (!strcmp(command, "read")) {
		get(libxenvchan_read);
	} else if (!strcmp(command, "recv")) {
		get(libxenvchan_recv);
	} else if (!strcmp(command, "ready")) {
		printf("%d\n", libxenvchan_data_ready(channel));
	} else if (!strcmp(command, "space")) {
		printf("%d\n", libxenvchan_buffer_space(channel));
	} else if (!strcmp(command, "open")) {
		printf("%d\n", libxenvchan_is_open(channel));
	} else if (!strcmp(command, "wait")) {
		printf("%d\n", libxenvchan_wait(channel));
	} else if (!strcmp(command, "poll")) {
		struct pollfd fd = { libxenvchan_fd_for_select(channel), POLLIN, 0 };
		printf("%d\n", poll(&fd, 1, (int)number(INT32_MAX)));
	} else if (!strcmp(command, "page")) {
		const volatile unsigned char *page = (const volatile unsigned char *)channel->ring;
		for (size_t left = number(4096); left; left--)
			printf("%02x", *page++);
		putchar('\n');
	} else if (!strcmp(command, "exchange")) {
		exchange();
	} else {
		bad("unknown command");
	}
}

int main(void)
{
	char *line = NULL;
	size_t room = 0;

	while (getline(&line, &room, stdin) > 0) {
		const char *command = strtok_r(line, " \n", &rest);
		if (!command)
			continue;
		execute(command);
		fflush(stdout);
	}
	free(line);
	return 0;
}
