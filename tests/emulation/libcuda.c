/* An emulation of NVIDIA's driver, so that the real PyCUDA can be run on a machine without a GPU. For tests only.

   "Device memory" is host memory under another address, so that nothing but this library can follow a device
   pointer. A stream is a thread that works through a queue, so copies and engines really run while the caller goes
   on. There is one device with one primary context. What is checked is what NVIDIA documents and programs get wrong:
   a current context on the calling thread, live handles, live memory of the right kind and size, no calls in a
   capture that a capture forbids, no use after a fork. Each wrong use that the real driver would answer with an error
   or with damage counts in `misuse`. It says nothing about speed, about kernels, or about what NVIDIA does not
   document.

   Compiled against the toolkit's own cuda.h, which therefore checks every signature. What PyCUDA links and is not
   here gets a stub that answers CUDA_ERROR_NOT_SUPPORTED. Functions that start with emu_ are for the tests. */

#include <cuda.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEVICE_TAG 0x4000000000000000ull /* device memory */
#define MAPPED_TAG 0x2000000000000000ull /* page-locked memory as the device sees it */

typedef void (*emu_callback)(void *);
typedef struct op { enum { COPY, CALL, RECORD, WAIT, SET } kind; uint64_t dst, src; size_t size; emu_callback call;
                    void *data; struct CUevent_st *event; uint64_t ticket; struct op *next; } op;
struct CUstream_st { struct CUstream_st *next; pthread_t thread; op *first, *last; int busy, stop, capturing, mode;
                     int spoiled; pthread_t captor; struct CUgraph_st *graph; };
struct CUevent_st { struct CUevent_st *next; uint64_t recorded, reached; };
struct CUgraph_st { op *first, *last; };
struct CUgraphExec_st { struct CUgraphExec_st *next; op *first; };
struct CUctx_st { int references; };
typedef struct memory { struct memory *next; char *host; size_t size, counted; int kind; } memory; /* 1 device, 2 page-locked */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct CUctx_st primary;
static struct CUstream_st *streams;
static struct CUevent_st *events;
static struct CUgraphExec_st *executables;
static memory *memories;
static pid_t owner;
static CUresult sticky;
static uint64_t tickets;
static size_t used;
static __thread CUcontext stack[64];
static __thread int depth;

/* what tests set and read */
static size_t total = (size_t)8 << 30;
static int integrated, major_ = 8, minor_ = 7, delay_us, count = 1, graphs = 1;
static long misuse, orphans, peak_streams, launches, copies, calls_made, fail_allocation = -1;

int emu_set(const char *name, long value)
{
  pthread_mutex_lock(&lock);
  if (!strcmp(name, "total")) total = value;
  else if (!strcmp(name, "integrated")) integrated = value;
  else if (!strcmp(name, "capability")) major_ = value / 10, minor_ = value % 10;
  else if (!strcmp(name, "delay_us")) delay_us = value;
  else if (!strcmp(name, "devices")) count = value;
  else if (!strcmp(name, "graphs")) graphs = value;
  else if (!strcmp(name, "lost")) sticky = value;
  else if (!strcmp(name, "fail_allocation")) fail_allocation = value;
  else if (!strcmp(name, "misuse")) misuse = value;
  else if (!strcmp(name, "orphans")) orphans = value;
  else { pthread_mutex_unlock(&lock); return 1; }
  pthread_mutex_unlock(&lock);
  return 0;
}

static long live(const char *name)
{
  long n = 0;
  if (!strcmp(name, "device")) { for (memory *m = memories; m; m = m->next) n += m->kind == 1; }
  else if (!strcmp(name, "pinned")) { for (memory *m = memories; m; m = m->next) n += m->kind == 2; }
  else if (!strcmp(name, "streams")) { for (CUstream s = streams; s; s = s->next) n++; }
  else if (!strcmp(name, "events")) { for (CUevent e = events; e; e = e->next) n++; }
  else if (!strcmp(name, "graphs")) { for (CUgraphExec g = executables; g; g = g->next) n++; }
  else if (!strcmp(name, "references")) n = primary.references;
  else if (!strcmp(name, "depth")) n = depth;
  else if (!strcmp(name, "misuse")) n = misuse;
  else if (!strcmp(name, "orphans")) n = orphans;
  else if (!strcmp(name, "launches")) n = launches;
  else if (!strcmp(name, "copies")) n = copies;
  else if (!strcmp(name, "calls")) n = calls_made;
  else if (!strcmp(name, "peak_streams")) n = peak_streams;
  else n = -1;
  return n;
}

long emu_get(const char *name)
{
  pthread_mutex_lock(&lock);
  long n = live(name);
  pthread_mutex_unlock(&lock);
  return n;
}

/* At the end of the process, into the file that EMU_REPORT names: what is still there. */
__attribute__((destructor)) static void report(void)
{
  const char *path = getenv("EMU_REPORT");
  static const char *const names[] = {"device", "pinned", "streams", "events", "graphs", "references", "misuse",
                                      "orphans", "launches"};
  FILE *file;
  if (!path || (owner && owner != getpid()) || !(file = fopen(path, "w"))) return;
  fprintf(file, "{");
  for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
    fprintf(file, "%s\"%s\": %ld", i ? ", " : "", names[i], live(names[i]));
  fprintf(file, "}\n");
  fclose(file);
}

/* A forked process finds the lock free, whoever held it. */
static void before_fork(void) { pthread_mutex_lock(&lock); }
static void after_fork(void) { pthread_mutex_unlock(&lock); }

__attribute__((constructor)) static void configure(void)
{
  pthread_atfork(before_fork, after_fork, after_fork);
  const char *value;
  if ((value = getenv("EMU_INTEGRATED"))) integrated = atoi(value);
  if ((value = getenv("EMU_CAPABILITY"))) emu_set("capability", atoi(value));
}

/* ---- checks; the lock is held ---- */

static CUresult wrong(CUresult code) { misuse++; return code; }
static CUresult enter(int needs_context)
{
  pthread_mutex_lock(&lock);
  if (!owner) return CUDA_ERROR_NOT_INITIALIZED;
  if (owner != getpid()) return CUDA_ERROR_NOT_INITIALIZED; /* as after a fork */
  if (!needs_context) return CUDA_SUCCESS;
  if (!depth) return wrong(CUDA_ERROR_INVALID_CONTEXT);
  if (!primary.references) return wrong(CUDA_ERROR_CONTEXT_IS_DESTROYED);
  return sticky;
}
static CUresult leave(CUresult code) { pthread_mutex_unlock(&lock); return code; }
#define ENTER(needs_context) { CUresult entered = enter(needs_context); if (entered) return leave(entered); }

static int known_stream(CUstream stream)
{
  for (CUstream s = streams; s; s = s->next) if (s == stream) return 1;
  return 0;
}
static int known_event(CUevent event)
{
  for (CUevent e = events; e; e = e->next) if (e == event) return 1;
  return 0;
}
static memory *find(uint64_t address, size_t size, int kind)
{
  for (memory *m = memories; m; m = m->next)
    if (m->kind == kind && address >= (uint64_t)m->host && address + size <= (uint64_t)m->host + m->size) return m;
  return NULL;
}
/* The host's address of what a device pointer points to, or NULL. */
static void *resolve(uint64_t address, size_t size)
{
  if (address & DEVICE_TAG && find(address & ~DEVICE_TAG, size, 1)) return (void *)(address & ~DEVICE_TAG);
  if (address & MAPPED_TAG && find(address & ~MAPPED_TAG, size, 2)) return (void *)(address & ~MAPPED_TAG);
  return NULL;
}
void *emu_resolve(uint64_t address, size_t size)
{
  pthread_mutex_lock(&lock);
  void *host = resolve(address, size);
  pthread_mutex_unlock(&lock);
  return host;
}
/* A call that a thread must not make while it captures in thread-local mode. */
static CUresult unsafe(void)
{
  for (CUstream s = streams; s; s = s->next)
    if (s->capturing && s->mode != CU_STREAM_CAPTURE_MODE_RELAXED && pthread_equal(s->captor, pthread_self()))
      return s->spoiled = 1, wrong(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  return CUDA_SUCCESS;
}

/* ---- device and context ---- */

CUresult cuInit(unsigned flags)
{
  pthread_mutex_lock(&lock);
  if (owner && owner != getpid()) return leave(CUDA_ERROR_NOT_INITIALIZED);
  if (!count) return leave(CUDA_ERROR_NO_DEVICE);
  owner = getpid();
  return leave(CUDA_SUCCESS);
}
CUresult cuDriverGetVersion(int *version) { *version = CUDA_VERSION; return CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int *n) { ENTER(0) *n = count; return leave(CUDA_SUCCESS); }
CUresult cuDeviceGet(CUdevice *device, int index)
{
  ENTER(0)
  if (index < 0 || index >= count) return leave(CUDA_ERROR_INVALID_DEVICE);
  *device = index;
  return leave(CUDA_SUCCESS);
}
CUresult cuDeviceGetName(char *name, int size, CUdevice device)
{
  ENTER(0)
  snprintf(name, size, "Emulated GPU");
  return leave(CUDA_SUCCESS);
}
CUresult cuDeviceTotalMem(size_t *bytes, CUdevice device) { ENTER(0) *bytes = total; return leave(CUDA_SUCCESS); }
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device)
{
  ENTER(0)
  switch ((int)attribute)
  {
    case CU_DEVICE_ATTRIBUTE_INTEGRATED: *value = integrated; break;
    case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY: *value = 1; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = major_; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = minor_; break;
    default: *value = 0;
  }
  return leave(CUDA_SUCCESS);
}
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
  ENTER(0)
  primary.references++;
  *context = &primary;
  return leave(CUDA_SUCCESS);
}

static void append(op **first, op **last, op item)
{
  op *copy = malloc(sizeof *copy);
  *copy = item;
  copy->next = NULL;
  if (*last) (*last)->next = copy; else *first = copy;
  *last = copy;
}

static void free_ops(op *item) { for (op *next; item; item = next) { next = item->next; free(item); } }

static void end_stream(CUstream stream) /* the lock is held, and given up meanwhile */
{
  for (CUstream *link = &streams; *link; link = &(*link)->next)
    if (*link == stream) { *link = stream->next; break; }
  stream->stop = 1;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
  pthread_join(stream->thread, NULL);
  pthread_mutex_lock(&lock);
  free(stream);
}

CUresult cuDevicePrimaryCtxRelease(CUdevice device)
{
  ENTER(0)
  if (!primary.references) return leave(wrong(CUDA_ERROR_INVALID_CONTEXT));
  if (--primary.references) return leave(CUDA_SUCCESS);
  while (streams) { orphans++; end_stream(streams); }
  for (memory *m = memories, *next; m; m = next) { orphans++; next = m->next; free(m->host); free(m); }
  for (CUevent e = events, next; e; e = next) { orphans++; next = e->next; free(e); }
  for (CUgraphExec g = executables, next; g; g = next) { orphans++; next = g->next; free_ops(g->first); free(g); }
  memories = NULL, events = NULL, executables = NULL, used = 0, sticky = 0;
  return leave(CUDA_SUCCESS);
}
CUresult cuCtxDetach(CUcontext context) { ENTER(0) return leave(wrong(CUDA_ERROR_INVALID_CONTEXT)); }
CUresult cuCtxPushCurrent(CUcontext context)
{
  ENTER(0)
  if (context != &primary || !primary.references) return leave(wrong(CUDA_ERROR_INVALID_CONTEXT));
  if (depth == 64) return leave(wrong(CUDA_ERROR_UNKNOWN));
  stack[depth++] = context;
  return leave(CUDA_SUCCESS);
}
CUresult cuCtxPopCurrent(CUcontext *context)
{
  ENTER(0)
  if (!depth) return leave(wrong(CUDA_ERROR_INVALID_CONTEXT));
  *context = stack[--depth];
  return leave(CUDA_SUCCESS);
}
CUresult cuCtxGetDevice(CUdevice *device) { ENTER(1) *device = 0; return leave(CUDA_SUCCESS); }

/* ---- memory ---- */

static CUresult allocate(void **host, size_t size, int kind)
{
  CUresult code = unsafe();
  if (code) return code;
  if (!size) return wrong(CUDA_ERROR_INVALID_VALUE);
  if (fail_allocation >= 0 && fail_allocation-- == 0) return CUDA_ERROR_OUT_OF_MEMORY;
  int counts = kind == 1 || integrated; /* page-locked memory is the CPU's, unless both share theirs */
  if (counts && used + size > total) return CUDA_ERROR_OUT_OF_MEMORY;
  memory *m = malloc(sizeof *m);
  if (posix_memalign((void **)&m->host, 4096, size)) { free(m); return CUDA_ERROR_OUT_OF_MEMORY; }
  memset(m->host, 0xA5, size); /* what was not written shows */
  m->size = size, m->kind = kind, m->counted = counts ? size : 0, m->next = memories, memories = m;
  used += m->counted;
  *host = m->host;
  return CUDA_SUCCESS;
}
static int running(void)
{
  for (CUstream s = streams; s; s = s->next) if (s->busy || s->first) return 1;
  return 0;
}
static CUresult release(uint64_t host, int kind)
{
  CUresult code = unsafe();
  if (code) return code;
  while (running()) pthread_cond_wait(&changed, &lock); /* as the driver does */
  for (memory **link = &memories; *link; link = &(*link)->next)
    if ((uint64_t)(*link)->host == host && (*link)->kind == kind)
    {
      memory *m = *link;
      *link = m->next;
      used -= m->counted;
      memset(m->host, 0x5A, m->size); /* who still reads it shows */
      free(m->host);
      free(m);
      return CUDA_SUCCESS;
    }
  return wrong(CUDA_ERROR_INVALID_VALUE);
}
CUresult cuMemGetInfo(size_t *f, size_t *t) { ENTER(1) *f = total - used, *t = total; return leave(CUDA_SUCCESS); }
CUresult cuMemAlloc(CUdeviceptr *address, size_t size)
{
  void *host = NULL;
  ENTER(1)
  CUresult code = allocate(&host, size, 1);
  *address = (CUdeviceptr)host | DEVICE_TAG;
  return leave(code);
}
CUresult cuMemFree(CUdeviceptr address) { ENTER(1) return leave(release(address & ~DEVICE_TAG, 1)); }
CUresult cuMemHostAlloc(void **host, size_t size, unsigned flags) { ENTER(1) return leave(allocate(host, size, 2)); }
CUresult cuMemFreeHost(void *host) { ENTER(1) return leave(release((uint64_t)host, 2)); }
CUresult cuMemHostGetDevicePointer(CUdeviceptr *address, void *host, unsigned flags)
{
  ENTER(1)
  if (!find((uint64_t)host, 1, 2)) return leave(wrong(CUDA_ERROR_INVALID_VALUE));
  *address = (CUdeviceptr)host | MAPPED_TAG;
  return leave(CUDA_SUCCESS);
}

/* ---- streams ---- */

static void fault(void) { if (!sticky) sticky = CUDA_ERROR_ILLEGAL_ADDRESS; misuse++; }
static void perform(op *item) /* without the lock */
{
  if (delay_us) usleep(rand() % delay_us);
  if (item->kind == CALL) item->call(item->data);
  pthread_mutex_lock(&lock);
  if (item->kind == COPY)
  {
    void *dst = item->dst & DEVICE_TAG ? resolve(item->dst, item->size) : (void *)item->dst;
    void *src = item->src & DEVICE_TAG ? resolve(item->src, item->size) : (void *)item->src;
    if (!dst || !src) fault(); else memcpy(dst, src, item->size);
  }
  else if (item->kind == SET)
  {
    void *dst = resolve(item->dst, item->size);
    if (!dst) fault(); else memset(dst, (int)item->src, item->size);
  }
  else if (item->kind == RECORD && known_event(item->event)) item->event->reached = item->ticket;
  else if (item->kind == WAIT) while (known_event(item->event) && item->event->reached < item->ticket)
    pthread_cond_wait(&changed, &lock);
  pthread_mutex_unlock(&lock);
}
static void *work(void *argument)
{
  CUstream stream = argument;
  pthread_mutex_lock(&lock);
  for (;;)
  {
    while (!stream->first && !stream->stop) pthread_cond_wait(&changed, &lock);
    op *item = stream->first;
    if (!item) break;
    if (!(stream->first = item->next)) stream->last = NULL;
    stream->busy = 1;
    pthread_mutex_unlock(&lock);
    if (!sticky) perform(item);
    free(item);
    pthread_mutex_lock(&lock);
    stream->busy = 0;
    pthread_cond_broadcast(&changed);
  }
  pthread_mutex_unlock(&lock);
  return NULL;
}
static CUresult enqueue(CUstream stream, op item)
{
  if (!known_stream(stream)) return wrong(CUDA_ERROR_INVALID_HANDLE);
  if (stream->capturing && stream->spoiled) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  if (stream->capturing) append(&stream->graph->first, &stream->graph->last, item);
  else append(&stream->first, &stream->last, item);
  pthread_cond_broadcast(&changed);
  return CUDA_SUCCESS;
}
static CUresult drain(CUstream stream)
{
  if (!known_stream(stream)) return wrong(CUDA_ERROR_INVALID_HANDLE);
  if (stream->capturing) return stream->spoiled = 1, wrong(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  while (stream->first || stream->busy) pthread_cond_wait(&changed, &lock);
  return sticky;
}
CUresult cuStreamCreate(CUstream *stream, unsigned flags)
{
  ENTER(1)
  CUstream s = calloc(1, sizeof *s);
  s->next = streams, streams = s;
  pthread_create(&s->thread, NULL, work, s);
  *stream = s;
  if (live("streams") > peak_streams) peak_streams = live("streams");
  return leave(CUDA_SUCCESS);
}
CUresult cuStreamDestroy(CUstream stream)
{
  ENTER(1)
  if (!known_stream(stream)) return leave(wrong(CUDA_ERROR_INVALID_HANDLE));
  end_stream(stream); /* what is queued is done first */
  return leave(CUDA_SUCCESS);
}
CUresult cuStreamSynchronize(CUstream stream) { ENTER(1) return leave(drain(stream)); }
CUresult cuStreamQuery(CUstream stream)
{
  ENTER(1)
  if (!known_stream(stream)) return leave(wrong(CUDA_ERROR_INVALID_HANDLE));
  return leave(stream->first || stream->busy ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS);
}
CUresult cuCtxSynchronize(void)
{
  ENTER(1)
  CUresult code = CUDA_SUCCESS;
  for (CUstream s = streams; s; s = s->next) /* of any thread, in any mode */
    if (s->capturing) s->spoiled = 1, code = wrong(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  while (!code && running()) pthread_cond_wait(&changed, &lock);
  return leave(code ? code : sticky);
}
static CUresult copy(uint64_t dst, uint64_t src, size_t size, uint64_t host, CUstream stream)
{
  op item = {.kind = COPY, .dst = dst, .src = src, .size = size};
  copies++;
  CUresult code = enqueue(stream, item);
  /* memory that is not page-locked cannot be copied behind the caller's back */
  if (!code && host && !find(host, size, 2)) code = drain(stream);
  return code;
}
CUresult cuMemcpyHtoDAsync(CUdeviceptr dst, const void *src, size_t size, CUstream stream)
{
  ENTER(1)
  return leave(copy(dst, (uint64_t)src, size, (uint64_t)src, stream));
}
CUresult cuMemcpyDtoHAsync(void *dst, CUdeviceptr src, size_t size, CUstream stream)
{
  ENTER(1)
  return leave(copy((uint64_t)dst, src, size, (uint64_t)dst, stream));
}
CUresult cuMemcpyDtoDAsync(CUdeviceptr dst, CUdeviceptr src, size_t size, CUstream stream)
{
  ENTER(1)
  return leave(copy(dst, src, size, 0, stream));
}
CUresult cuMemsetD8Async(CUdeviceptr dst, unsigned char value, size_t size, CUstream stream)
{
  ENTER(1)
  return leave(enqueue(stream, (op){.kind = SET, .dst = dst, .src = value, .size = size}));
}

/* An engine's work, in the stream's order; the emulated TensorRT calls it. */
CUresult emu_call(CUstream stream, emu_callback call, void *data)
{
  ENTER(1)
  calls_made++;
  return leave(enqueue(stream, (op){.kind = CALL, .call = call, .data = data}));
}
/* A kernel that failed: every later call in the context answers with this code. */
void emu_fault(int code) { pthread_mutex_lock(&lock); sticky = code; pthread_mutex_unlock(&lock); }

/* ---- events ---- */

CUresult cuEventCreate(CUevent *event, unsigned flags)
{
  ENTER(1)
  CUevent e = calloc(1, sizeof *e);
  e->next = events, events = e;
  *event = e;
  return leave(CUDA_SUCCESS);
}
CUresult cuEventDestroy(CUevent event)
{
  ENTER(1)
  for (CUevent *link = &events; *link; link = &(*link)->next)
    if (*link == event) { *link = event->next; free(event); return leave(CUDA_SUCCESS); }
  return leave(wrong(CUDA_ERROR_INVALID_HANDLE));
}
CUresult cuEventRecord(CUevent event, CUstream stream)
{
  ENTER(1)
  if (!known_event(event)) return leave(wrong(CUDA_ERROR_INVALID_HANDLE));
  event->recorded = ++tickets;
  return leave(enqueue(stream, (op){.kind = RECORD, .event = event, .ticket = event->recorded}));
}
CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags)
{
  ENTER(1)
  if (!known_event(event)) return leave(wrong(CUDA_ERROR_INVALID_HANDLE));
  return leave(enqueue(stream, (op){.kind = WAIT, .event = event, .ticket = event->recorded}));
}
CUresult cuEventQuery(CUevent event)
{
  ENTER(1)
  if (!known_event(event)) return leave(wrong(CUDA_ERROR_INVALID_HANDLE));
  return leave(event->reached < event->recorded ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS);
}
CUresult cuEventSynchronize(CUevent event)
{
  ENTER(1)
  if (!known_event(event)) return leave(wrong(CUDA_ERROR_INVALID_HANDLE));
  while (known_event(event) && event->reached < event->recorded) pthread_cond_wait(&changed, &lock);
  return leave(sticky);
}

/* ---- graphs ---- */

CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode)
{
  ENTER(1)
  if (!graphs) return leave(CUDA_ERROR_NOT_SUPPORTED);
  if (!known_stream(stream) || stream->capturing) return leave(wrong(CUDA_ERROR_ILLEGAL_STATE));
  stream->capturing = 1, stream->spoiled = 0, stream->mode = mode, stream->captor = pthread_self();
  stream->graph = calloc(1, sizeof *stream->graph);
  return leave(CUDA_SUCCESS);
}
CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph)
{
  ENTER(1)
  if (!known_stream(stream) || !stream->capturing) return leave(wrong(CUDA_ERROR_ILLEGAL_STATE));
  stream->capturing = 0;
  *graph = stream->graph;
  if (!stream->spoiled) return leave(CUDA_SUCCESS);
  free_ops(stream->graph->first);
  free(stream->graph);
  *graph = NULL;
  return leave(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
}
CUresult emu_spoil(CUstream stream) /* an engine that cannot be captured */
{
  ENTER(1)
  if (!stream->capturing) return leave(CUDA_SUCCESS);
  stream->spoiled = 1;
  return leave(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
}
CUresult cuGraphInstantiateWithFlags(CUgraphExec *executable, CUgraph graph, unsigned long long flags)
{
  ENTER(1)
  CUgraphExec g = calloc(1, sizeof *g);
  op *last = NULL;
  for (op *item = graph->first; item; item = item->next) append(&g->first, &last, *item);
  g->next = executables, executables = g;
  *executable = g;
  return leave(CUDA_SUCCESS);
}
CUresult cuGraphDestroy(CUgraph graph)
{
  ENTER(1)
  free_ops(graph->first);
  free(graph);
  return leave(CUDA_SUCCESS);
}
CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream)
{
  ENTER(1)
  CUgraphExec g = executables;
  while (g && g != executable) g = g->next;
  if (!g) return leave(wrong(CUDA_ERROR_INVALID_HANDLE));
  CUresult code = CUDA_SUCCESS;
  launches++;
  for (op *item = g->first; item && !code; item = item->next) code = enqueue(stream, *item);
  return leave(code);
}
CUresult cuGraphExecDestroy(CUgraphExec executable)
{
  ENTER(1)
  for (CUgraphExec *link = &executables; *link; link = &(*link)->next)
    if (*link == executable)
    {
      *link = executable->next;
      free_ops(executable->first);
      free(executable);
      return leave(CUDA_SUCCESS);
    }
  return leave(wrong(CUDA_ERROR_INVALID_HANDLE));
}

/* ---- errors ---- */

CUresult cuGetErrorString(CUresult code, const char **text)
{
  static const struct { int code; const char *text; } texts[] = {
    {0, "no error"}, {1, "invalid argument"}, {2, "out of memory"}, {3, "initialization error"},
    {34, "CUDA driver is a stub library"}, {46, "CUDA-capable device(s) is/are busy or unavailable"},
    {100, "no CUDA-capable device is detected"}, {101, "invalid device ordinal"}, {201, "invalid device context"},
    {214, "uncorrectable ECC error encountered"}, {400, "invalid resource handle"},
    {401, "the operation cannot be performed in the present state"}, {600, "device not ready"},
    {700, "an illegal memory access was encountered"}, {702, "the launch timed out and was terminated"},
    {709, "context is destroyed"}, {710, "device-side assert triggered"}, {719, "unspecified launch failure"},
    {801, "operation not supported"}, {803, "system has unsupported display driver / cuda driver combination"},
    {804, "forward compatibility was attempted on non supported HW"},
    {900, "operation not permitted when stream is capturing"},
    {901, "operation failed due to a previous error during capture"}, {999, "unknown error"}};
  for (unsigned i = 0; i < sizeof texts / sizeof *texts; i++)
    if (texts[i].code == (int)code) { *text = texts[i].text; return CUDA_SUCCESS; }
  *text = NULL;
  return CUDA_ERROR_INVALID_VALUE;
}
