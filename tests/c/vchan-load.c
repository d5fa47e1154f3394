// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * vchan-load: the C library's side of measurements.
 *
 *   vchan-load server DOMID PATH ORDER   serves one client, then ends
 *   vchan-load client DOMID PATH         does what standard input says, until it ends
 *
 * The counterpart of tests/src/bin/rust-load.rs: the same commands and answers, and on the channel
 * the protocol of bench/src/remote.rs, except that rings stay as they are. Commands are
 *
 *   stream SIZE COUNT   COUNT messages of SIZE bytes; the other end compares every byte
 *   trips SIZE COUNT    as many messages there and back, one after the other, compared here
 *
 * with "-asleep" behind the word for our library to sleep at once when it has to wait, as this one
 * does anyway,
 * and the answer is
 *
 *   ok NANOSECONDS NOTIFICATIONS CALLS
 *
 * of a stream the whole time and what both ends counted; of trips the median of their times and what
 * this end counted. NOTIFICATIONS are calls of EVTCHN_NOTIFY; CALLS are those to the event channel in
 * all: one system call each. They are counted by standing between libxenvchan and libxenevtchn
 * (ld --wrap).
 *
 * Exit status: 0 done; 1 a byte was wrong; 2 bad arguments; 3 the channel failed.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <libxenvchan.h>

enum { DONE = 0, WRONG_BYTE = 1, BAD_ARGUMENTS = 2, NO_CHANNEL = 3 };
enum { SINK = 2, ECHO = 3, END = 4 };

__attribute__((noreturn, format(printf, 2, 3)))
static void end(int status, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	fputs("vchan-load: ", stderr);
	vfprintf(stderr, format, arguments);
	fputc('\n', stderr);
	exit(status);
}

/* ---- counting --------------------------------------------------------- */

static uint64_t notifications, calls;

int __real_xenevtchn_notify(xenevtchn_handle *handle, evtchn_port_t port);
xenevtchn_port_or_error_t __real_xenevtchn_pending(xenevtchn_handle *handle);
int __real_xenevtchn_unmask(xenevtchn_handle *handle, evtchn_port_t port);

int __wrap_xenevtchn_notify(xenevtchn_handle *handle, evtchn_port_t port)
{
	notifications++;
	calls++;
	return __real_xenevtchn_notify(handle, port);
}

xenevtchn_port_or_error_t __wrap_xenevtchn_pending(xenevtchn_handle *handle)
{
	calls++;
	return __real_xenevtchn_pending(handle);
}

int __wrap_xenevtchn_unmask(xenevtchn_handle *handle, evtchn_port_t port)
{
	calls++;
	return __real_xenevtchn_unmask(handle, port);
}

/* ---- the bytes: bench/src/payload.rs ---------------------------------- */

#define PERIOD (255 * 64)
#define LONGEST 65536 /* the longest piece that is sent or compared at once */

static unsigned char payload[PERIOD + LONGEST];
static unsigned char buffer[LONGEST];

static void make_payload(void)
{
	uint64_t state = 0x2545f4914f6cdd1du;

	for (size_t at = 0; at < PERIOD; at += 8) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		for (size_t i = 0; i < 8; i++)
			payload[at + i] = (unsigned char)(state >> (8 * i));
	}
	for (size_t at = PERIOD; at < sizeof payload; at++)
		payload[at] = payload[at - PERIOD];
}

static void check(uint64_t position, size_t size)
{
	if (memcmp(buffer, payload + position % PERIOD, size))
		end(WRONG_BYTE, "of the %zu bytes from %" PRIu64 " on, one is not what was sent",
		    size, position);
}

/* ---- blocking calls --------------------------------------------------- */

static void put(struct libxenvchan *v, const unsigned char *from, size_t size)
{
	while (size) {
		int n = libxenvchan_write(v, from, size);
		if (n <= 0)
			end(NO_CHANNEL, "the channel broke");
		from += n;
		size -= (size_t)n;
	}
}

static void send_message(struct libxenvchan *v, const void *from, size_t size)
{
	if (libxenvchan_send(v, from, size) != (int)size)
		end(NO_CHANNEL, "the channel broke");
}

/* False: the peer has closed. */
static bool receive_message(struct libxenvchan *v, void *to, size_t size)
{
	return libxenvchan_recv(v, to, size) == (int)size;
}

static void put_number(unsigned char *to, uint64_t number)
{
	for (int i = 0; i < 8; i++)
		to[i] = (unsigned char)(number >> (8 * i));
}

static uint64_t get_number(const unsigned char *from)
{
	uint64_t number = 0;

	for (int i = 0; i < 8; i++)
		number |= (uint64_t)from[i] << (8 * i);
	return number;
}

/* ---- server ----------------------------------------------------------- */

static void sink(struct libxenvchan *v, uint64_t total)
{
	uint64_t notifications_before = notifications, calls_before = calls;
	uint64_t arrived = 0;
	unsigned char answer[24];

	while (arrived < total) {
		size_t most = total - arrived < LONGEST ? (size_t)(total - arrived) : LONGEST;
		int n = libxenvchan_read(v, buffer, most);
		if (n <= 0)
			end(NO_CHANNEL, "the channel broke");
		check(arrived, (size_t)n);
		arrived += (uint64_t)n;
	}
	put_number(answer, arrived);
	put_number(answer + 8, notifications - notifications_before);
	put_number(answer + 16, calls - calls_before);
	send_message(v, answer, sizeof answer);
}

static void echo(struct libxenvchan *v, size_t size, uint64_t count)
{
	while (count--) {
		if (!receive_message(v, buffer, size))
			end(NO_CHANNEL, "the channel broke");
		send_message(v, buffer, size);
	}
}

static int serve(int domid, const char *path, size_t ring)
{
	struct libxenvchan *v = libxenvchan_server_init(NULL, domid, path, ring, ring);
	unsigned char request[24];

	if (!v)
		end(NO_CHANNEL, "nothing can be published at %s", path);
	v->blocking = 1;
	while (receive_message(v, request, sizeof request) && request[0] != END) {
		uint64_t size = get_number(request + 8), count = get_number(request + 16);
		if (size < 1 || size > LONGEST)
			end(BAD_ARGUMENTS, "there are no messages of %" PRIu64 " bytes", size);
		if (request[0] == SINK)
			sink(v, size * count);
		else if (request[0] == ECHO && size <= ring)
			echo(v, (size_t)size, count);
		else
			end(BAD_ARGUMENTS, "a request that is not for this program");
	}
	libxenvchan_close(v);
	return DONE;
}

/* ---- client ----------------------------------------------------------- */

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* How the server is to wait, if it is ours: bench/src/remote.rs. */
enum { BLOCKING = 0, SLEEP = 1 };
static unsigned char mode;

static void ask(struct libxenvchan *v, unsigned char what, uint64_t size, uint64_t count)
{
	unsigned char request[24] = { what, mode };

	put_number(request + 8, size);
	put_number(request + 16, count);
	send_message(v, request, sizeof request);
}

static void say(uint64_t time, uint64_t notified, uint64_t called)
{
	printf("ok %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", time, notified, called);
	fflush(stdout);
}

static void stream(struct libxenvchan *v, size_t size, uint64_t count)
{
	unsigned char answer[24];

	ask(v, SINK, size, count);
	uint64_t notifications_before = notifications, calls_before = calls;
	uint64_t since = now(), sent = 0;
	for (uint64_t i = 0; i < count; i++, sent += size)
		put(v, payload + sent % PERIOD, size);
	if (!receive_message(v, answer, sizeof answer))
		end(NO_CHANNEL, "the channel broke");
	uint64_t elapsed = now() - since;
	if (get_number(answer) != sent)
		end(WRONG_BYTE, "not all that was sent has arrived");
	say(elapsed, notifications - notifications_before + get_number(answer + 8),
	    calls - calls_before + get_number(answer + 16));
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void trips(struct libxenvchan *v, size_t size, uint64_t count)
{
	uint64_t *times = calloc(count, sizeof *times);
	uint64_t sent = 0;

	if (!times)
		end(NO_CHANNEL, "there is no memory for %" PRIu64 " times", count);
	ask(v, ECHO, size, count);
	uint64_t notifications_before = notifications, calls_before = calls;
	for (uint64_t i = 0; i < count; i++, sent += size) {
		uint64_t since = now();
		send_message(v, payload + sent % PERIOD, size);
		if (!receive_message(v, buffer, size))
			end(NO_CHANNEL, "the channel broke");
		times[i] = now() - since;
		check(sent, size);
	}
	uint64_t notified = notifications - notifications_before, called = calls - calls_before;
	qsort(times, count, sizeof *times, compare);
	say(times[(count - 1) / 2], notified, called);
	free(times);
}

static int obey(int domid, const char *path)
{
	struct libxenvchan *v = NULL;
	char line[128], what[16];
	uint64_t size, count;

	/* The server may not have published yet. */
	for (int tries = 0; !v && tries < 600; tries++) {
		v = libxenvchan_client_init(NULL, domid, path);
		if (!v)
			nanosleep(&(struct timespec){ .tv_nsec = 100000000 }, NULL);
	}
	if (!v)
		end(NO_CHANNEL, "nobody serves at %s", path);
	v->blocking = 1;
	puts("connected");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		if (sscanf(line, "%15s %" SCNu64 " %" SCNu64, what, &size, &count) != 3 ||
		    size < 1 || size > LONGEST || count < 1)
			end(BAD_ARGUMENTS, "not a command: %s", line);
		mode = strstr(what, "-asleep") ? SLEEP : BLOCKING;
		if (!strcmp(what, "stream") || !strcmp(what, "stream-asleep"))
			stream(v, (size_t)size, count);
		else if (!strcmp(what, "trips") || !strcmp(what, "trips-asleep"))
			trips(v, (size_t)size, count);
		else
			end(BAD_ARGUMENTS, "not a command: %s", line);
	}
	ask(v, END, 0, 0);
	libxenvchan_close(v);
	return DONE;
}

static long number(const char *text, long most)
{
	char *rest;
	long value = strtol(text, &rest, 10);

	if (rest == text || *rest || value < 0 || value > most)
		end(BAD_ARGUMENTS, "not a number from 0 to %ld: %s", most, text);
	return value;
}

int main(int argc, char **argv)
{
	make_payload();
	if (argc == 5 && !strcmp(argv[1], "server"))
		return serve((int)number(argv[2], 0x7fef), argv[3],
			     (size_t)1 << number(argv[4], 20));
	if (argc == 4 && !strcmp(argv[1], "client"))
		return obey((int)number(argv[2], 0x7fef), argv[3]);
	end(BAD_ARGUMENTS, "usage: vchan-load server DOMID PATH ORDER | client DOMID PATH");
}
