// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * vchan-peer: the C library's side of the tests.
 *
 * Uses nothing but the calls of <libxenvchan.h>, so the same source runs on
 * real Xen and, linked with other implementations of the Xen libraries, on a
 * host that only imitates one.
 *
 *   vchan-peer MODE ROLE DOMID PATH [OPTIONS]
 *
 * MODE   echo   read, upper-case the ASCII letters, write back. Blocking calls.
 *               As server it serves one client after another, each on a fresh
 *               channel; as client it ends when the server closes.
 *        pipe   standard input to the channel, the channel to standard output.
 *               Non-blocking calls and poll. Ends once standard input has ended
 *               and as many bytes have come back as were sent.
 *        bulk   pseudo-random bytes to an echo, the answer compared with what
 *               it must be. Non-blocking calls and poll.
 * ROLE   server | client: who publishes the channel. Independent of MODE.
 * DOMID  the other domain.
 * PATH   XenStore directory of ring-ref and event-channel.
 *
 * OPTIONS
 *   -r BYTES  read_min of a server   (default 5000)
 *   -w BYTES  write_min of a server  (default 5000)
 *   -d BYTES  datagrams: every message has exactly this size and goes by
 *             send/recv, all or nothing (default: a stream, read/write)
 *   -n BYTES  bulk: how much to send (default 1048576); with -d rounded up to
 *             whole messages
 *   -x SEED   bulk: seed of the pseudo-random bytes (default 1)
 *   -t SECS   how long a client keeps trying to connect (default 30)
 *   -k COUNT  echo server: end after this many clients (default 0: never)
 *
 * Standard output carries data only (pipe) or one line with the result (bulk):
 *   bulk: ok sent=N received=N fnv1a=HEX
 * Everything else goes to standard error.
 *
 * Exit status: 0 done; 1 the answer was wrong; 2 bad arguments;
 * 3 no channel could be set up; 4 the peer closed too early.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <libxenvchan.h>

enum { DONE = 0, WRONG_ANSWER = 1, BAD_ARGUMENTS = 2, NO_CHANNEL = 3, PEER_CLOSED = 4 };

struct options {
	const char *mode;
	bool server;
	int domid;
	const char *path;
	size_t read_min, write_min;
	size_t datagram; /* 0: stream */
	uint64_t bytes;
	uint64_t seed;
	unsigned connect_seconds;
	unsigned clients;
};

/* One chunk on its way; a datagram must fit whole. */
#define CHUNK (1u << 20)
static unsigned char outgoing[CHUNK], incoming[CHUNK];

static void usage(const char *what)
{
	fprintf(stderr,
		"vchan-peer: %s\n"
		"usage: vchan-peer echo|pipe|bulk server|client DOMID PATH [-r BYTES] [-w BYTES]\n"
		"       [-d BYTES] [-n BYTES] [-x SEED] [-t SECS] [-k COUNT]\n", what);
	exit(BAD_ARGUMENTS);
}

static uint64_t number(const char *text, uint64_t max)
{
	char *end;
	errno = 0;
	unsigned long long value = strtoull(text, &end, 10);
	if (errno || end == text || *end || *text == '-' || value > max)
		usage("not a number, or too large");
	return value;
}

static struct options parse(int argc, char **argv)
{
	struct options o = {
		.read_min = 5000, .write_min = 5000,
		.bytes = 1 << 20, .seed = 1, .connect_seconds = 30,
	};
	if (argc < 5)
		usage("MODE, ROLE, DOMID and PATH are needed");
	o.mode = argv[1];
	if (strcmp(o.mode, "echo") && strcmp(o.mode, "pipe") && strcmp(o.mode, "bulk"))
		usage("MODE is echo, pipe or bulk");
	o.server = !strcmp(argv[2], "server");
	if (!o.server && strcmp(argv[2], "client"))
		usage("ROLE is server or client");
	o.domid = (int)number(argv[3], 0x7fef);
	o.path = argv[4];

	argc -= 4;
	argv += 4;
	for (int c; (c = getopt(argc, argv, "r:w:d:n:x:t:k:")) != -1;) {
		switch (c) {
		case 'r': o.read_min = number(optarg, CHUNK); break;
		case 'w': o.write_min = number(optarg, CHUNK); break;
		case 'd': o.datagram = number(optarg, CHUNK); break;
		case 'n': o.bytes = number(optarg, UINT64_MAX); break;
		case 'x': o.seed = number(optarg, UINT64_MAX); break;
		case 't': o.connect_seconds = (unsigned)number(optarg, 86400); break;
		case 'k': o.clients = (unsigned)number(optarg, UINT32_MAX); break;
		default: usage("unknown option, or an option without its value");
		}
	}
	if (optind != argc)
		usage("too many arguments");
	if (o.datagram && o.bytes % o.datagram)
		o.bytes += o.datagram - o.bytes % o.datagram;
	return o;
}

/* The C library does not wait for the other side's keys, so a client tries again. */
static struct libxenvchan *open_channel(const struct options *o, bool blocking)
{
	struct libxenvchan *v = NULL;
	const struct timespec pause = { .tv_nsec = 100 * 1000 * 1000 };

	if (o->server) {
		v = libxenvchan_server_init(NULL, o->domid, o->path, o->read_min, o->write_min);
	} else {
		time_t until = time(NULL) + (time_t)o->connect_seconds;
		while (!(v = libxenvchan_client_init(NULL, o->domid, o->path))
		       && time(NULL) < until)
			nanosleep(&pause, NULL);
	}
	if (!v) {
		fprintf(stderr, "vchan-peer: no channel as %s with domain %d at %s: %s\n",
			o->server ? "server" : "client", o->domid, o->path, strerror(errno));
		exit(NO_CHANNEL);
	}
	v->blocking = blocking; /* the library leaves it uninitialised */
	return v;
}

static int put(const struct options *o, struct libxenvchan *v, const void *data, size_t size)
{
	return o->datagram ? libxenvchan_send(v, data, size) : libxenvchan_write(v, data, size);
}

static int get(const struct options *o, struct libxenvchan *v, void *data, size_t size)
{
	return o->datagram ? libxenvchan_recv(v, data, size) : libxenvchan_read(v, data, size);
}

static unsigned char upper(unsigned char c)
{
	return c >= 'a' && c <= 'z' ? (unsigned char)(c - 'a' + 'A') : c;
}

/* ---- echo ------------------------------------------------------------- */

static uint64_t echo_one(const struct options *o, struct libxenvchan *v)
{
	uint64_t echoed = 0;
	size_t want = o->datagram ? o->datagram : 65536;

	for (;;) {
		int n = get(o, v, incoming, want);
		if (n < 0)
			return echoed;
		for (int i = 0; i < n; i++)
			incoming[i] = upper(incoming[i]);
		/* A blocking stream write takes everything, a blocking send likewise. */
		if (n > 0 && put(o, v, incoming, (size_t)n) != n)
			return echoed;
		echoed += (uint64_t)n;
	}
}

static int echo(const struct options *o)
{
	unsigned served = 0;
	do {
		struct libxenvchan *v = open_channel(o, true);
		fprintf(stderr, "vchan-peer: echo ready at %s\n", o->path);
		uint64_t n = echo_one(o, v);
		fprintf(stderr, "vchan-peer: peer gone after %" PRIu64 " bytes\n", n);
		libxenvchan_close(v);
		served++;
	} while (o->server && served != o->clients);
	return DONE;
}

/* ---- pipe and bulk ---------------------------------------------------- */

/* splitmix64, one byte at a time; the receiving side runs a second copy. */
struct source {
	uint64_t state, word;
	unsigned left;
};

static unsigned char next_byte(struct source *s)
{
	if (!s->left) {
		uint64_t z = (s->state += 0x9e3779b97f4a7c15u);
		z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
		z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
		s->word = z ^ (z >> 31);
		s->left = 8;
	}
	s->left--;
	unsigned char byte = (unsigned char)s->word;
	s->word >>= 8;
	return byte;
}

struct transfer {
	const struct options *o;
	struct libxenvchan *v;
	bool bulk;
	struct source send, expect;
	size_t out_start, out_end; /* what of `outgoing` still has to go out */
	bool input_ended;
	uint64_t sent, received, fnv1a;
};

/* Refills `outgoing`; for a pipe only called when standard input is readable. */
static void refill(struct transfer *t)
{
	t->out_start = t->out_end = 0;
	if (t->bulk) {
		size_t size = t->o->datagram ? t->o->datagram : 65536;
		if (size > t->o->bytes - t->sent)
			size = t->o->bytes - t->sent;
		for (size_t i = 0; i < size; i++)
			outgoing[i] = next_byte(&t->send);
		t->out_end = size;
		t->input_ended = size == 0;
		return;
	}
	size_t want = t->o->datagram ? t->o->datagram : 65536;
	do {
		ssize_t n = read(STDIN_FILENO, outgoing + t->out_end, want - t->out_end);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			perror("vchan-peer: standard input");
		if (n <= 0) {
			t->input_ended = true;
			break;
		}
		t->out_end += (size_t)n;
	} while (t->o->datagram && t->out_end < want);
	if (t->o->datagram && t->out_end && t->out_end < want) {
		fprintf(stderr, "vchan-peer: the input is not a whole number of %zu-byte messages\n",
			want);
		exit(BAD_ARGUMENTS);
	}
}

/* Takes what has arrived; returns the C library's result. */
static int take(struct transfer *t)
{
	int n = get(t->o, t->v, incoming, t->o->datagram ? t->o->datagram : 65536);
	for (int i = 0; i < n; i++) {
		t->fnv1a = (t->fnv1a ^ incoming[i]) * 0x100000001b3u;
		if (t->bulk && incoming[i] != upper(next_byte(&t->expect))) {
			fprintf(stderr, "vchan-peer: byte %" PRIu64 " of the answer is wrong\n",
				t->received + (uint64_t)i);
			exit(WRONG_ANSWER);
		}
	}
	if (!t->bulk && n > 0 && fwrite(incoming, 1, (size_t)n, stdout) != (size_t)n) {
		perror("vchan-peer: standard output");
		exit(WRONG_ANSWER);
	}
	if (n > 0) {
		fflush(stdout);
		t->received += (uint64_t)n;
	}
	return n;
}

static int run(struct transfer *t)
{
	for (;;) {
		bool moved = false;
		if (t->bulk && t->out_start == t->out_end && !t->input_ended)
			refill(t);
		if (t->out_start < t->out_end) {
			int n = put(t->o, t->v, outgoing + t->out_start, t->out_end - t->out_start);
			if (n > 0) {
				t->out_start += (size_t)n;
				t->sent += (uint64_t)n;
				moved = true;
			}
		}
		int n = take(t);
		moved = moved || n > 0;
		if (t->input_ended && t->out_start == t->out_end && t->received >= t->sent)
			return DONE;
		/* Asked before the last look, so that no byte written before the close is missed. */
		bool closed = !libxenvchan_is_open(t->v);
		if (closed && take(t) <= 0) {
			fprintf(stderr, "vchan-peer: the peer closed after %" PRIu64
				" bytes out and %" PRIu64 " bytes in\n", t->sent, t->received);
			return PEER_CLOSED;
		}
		if (moved || closed)
			continue;

		bool want_input = !t->bulk && !t->input_ended && t->out_start == t->out_end;
		struct pollfd fds[2] = {
			{ .fd = libxenvchan_fd_for_select(t->v), .events = POLLIN },
			{ .fd = want_input ? STDIN_FILENO : -1, .events = POLLIN },
		};
		if (poll(fds, 2, -1) < 0 && errno != EINTR) {
			perror("vchan-peer: poll");
			return NO_CHANNEL;
		}
		if (fds[0].revents)
			libxenvchan_wait(t->v);
		if (fds[1].revents)
			refill(t);
	}
}

static int exchange(const struct options *o)
{
	struct transfer t = {
		.o = o, .bulk = !strcmp(o->mode, "bulk"), .v = open_channel(o, false),
		.send = { .state = o->seed }, .expect = { .state = o->seed },
		.fnv1a = 0xcbf29ce484222325u,
	};
	int status = run(&t);
	libxenvchan_close(t.v);
	if (t.bulk && status == DONE)
		printf("bulk: ok sent=%" PRIu64 " received=%" PRIu64 " fnv1a=%016" PRIx64 "\n",
		       t.sent, t.received, t.fnv1a);
	return status;
}

int main(int argc, char **argv)
{
	struct options o = parse(argc, argv);
	return strcmp(o.mode, "echo") ? exchange(&o) : echo(&o);
}
