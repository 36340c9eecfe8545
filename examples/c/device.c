/* What comes before main on a Cortex-M4 in QEMU: vectors, memory, the FPU, the debugger's console. ARGS are main's
 * arguments, as C strings. */
#include <stdint.h>
#include <stdlib.h>

extern uint32_t data_start, data_end, data_from, bss_start, bss_end, stack_top;
extern void initialise_monitor_handles(void);
extern int main(int argc, char **argv);

void start(void);

/* The C library calls them around main. */
void _init(void) {}
void _fini(void) {}

static void fault(void) {
  abort();
}

__attribute__((section(".vectors"), used)) static void (*const vectors[])(void) = {
    (void (*)(void))&stack_top, start, fault, fault, fault, fault, fault};

void start(void) {
  static char *argv[] = {ARGS, NULL};
  uint32_t *to, *from = &data_from;
  /* Coprocessors 10 and 11, before any float. */
  *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20;
  __asm__ volatile("dsb\nisb");
  for (to = &data_start; to < &data_end;) *to++ = *from++;
  for (to = &bss_start; to < &bss_end;) *to++ = 0;
  initialise_monitor_handles();
  exit(main((int)(sizeof argv / sizeof *argv) - 1, argv));
}
