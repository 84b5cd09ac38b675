/* Counts the calls of the C allocator, to be preloaded: how many blocks a call of a model takes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stddef.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static atomic_long taken;

long allocations(void) { return atomic_load(&taken); }

void *malloc(size_t size) { atomic_fetch_add(&taken, 1); return __libc_malloc(size); }
void *calloc(size_t count, size_t size) { atomic_fetch_add(&taken, 1); return __libc_calloc(count, size); }
void *realloc(void *block, size_t size) { atomic_fetch_add(&taken, 1); return __libc_realloc(block, size); }
void *memalign(size_t alignment, size_t size) { atomic_fetch_add(&taken, 1); return __libc_memalign(alignment, size); }
void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }
int posix_memalign(void **block, size_t alignment, size_t size) { return (*block = memalign(alignment, size)) ? 0 : 12; }
