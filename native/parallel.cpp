// Threads that wait for work. Made when first needed, never ended: a process may exit at any time.
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "packed.h"
#include "ticketry.h"

namespace ticketry {
namespace {

typedef void (*Team)(void (*)(void*), void*, unsigned, unsigned);
std::atomic<Team> team{nullptr};
std::atomic<pid_t> team_process{0};  // a forked child has none of its parent's threads

struct Job {
  void (*work)(void*, int64_t);
  void* context;
  int64_t items;
  std::atomic<int64_t> next{0};

  static void drain(void* job) {
    auto& one = *static_cast<Job*>(job);
    for (int64_t i = one.next.fetch_add(1); i < one.items; i = one.next.fetch_add(1))
      one.work(one.context, i);
  }
};

struct Pool {
  std::mutex busy;  // one piece of work at a time; who finds it taken works alone
  std::mutex lock;
  std::condition_variable wake, done;
  pid_t process = getpid();
  int32_t made = 0;
  uint64_t turn = 0;
  int32_t wanted = 0;   // workers that may still join this turn
  int32_t working = 0;
  void (*work)(void*, int64_t) = nullptr;
  void* context = nullptr;
  int64_t items = 0;
  std::atomic<int64_t> next{0};

  void drain() {
    for (int64_t i = next.fetch_add(1); i < items; i = next.fetch_add(1)) work(context, i);
  }

  void serve() {
    std::unique_lock<std::mutex> held(lock);
    uint64_t seen = 0;
    for (;;) {
      wake.wait(held, [&] { return turn != seen; });
      seen = turn;
      if (wanted == 0) continue;
      --wanted;
      ++working;
      held.unlock();
      drain();
      held.lock();
      if (--working == 0) done.notify_one();
    }
  }
};

std::atomic<Pool*> current{nullptr};

Pool* pool() {
  Pool* found = current.load();
  // A forked child has its parent's pool but none of its threads.
  if (found != nullptr && found->process == getpid()) return found;
  auto* made = new Pool;
  if (current.compare_exchange_strong(found, made)) return made;
  delete made;
  return found;
}

}  // namespace

void parallel(int32_t threads, int64_t items, void (*work)(void*, int64_t), void* context) {
  const int64_t others = (threads < items ? threads : items) - 1;
  const Team shares = team.load();
  if (others >= 1 && shares != nullptr && team_process.load() == getpid()) {
    Job job{work, context, items};
    shares(Job::drain, &job, static_cast<unsigned>(others + 1), 0);
    return;
  }
  if (others >= 1) {
    Pool* shared = pool();
    if (shared->busy.try_lock()) {
      bool joined = true;
      {
        std::lock_guard<std::mutex> held(shared->lock);
        while (shared->made < others && joined) {
          try {
            std::thread([shared] { shared->serve(); }).detach();
            ++shared->made;
          } catch (...) {
            joined = false;  // no more threads to be had: those that are there do it
          }
        }
        shared->work = work;
        shared->context = context;
        shared->items = items;
        shared->next.store(0);
        shared->wanted = static_cast<int32_t>(others);
        ++shared->turn;
      }
      shared->wake.notify_all();
      shared->drain();
      {
        std::unique_lock<std::mutex> held(shared->lock);
        shared->wanted = 0;  // who has not woken yet need not
        shared->done.wait(held, [&] { return shared->working == 0; });
      }
      shared->busy.unlock();
      return;
    }
  }
  for (int64_t i = 0; i < items; ++i) work(context, i);
}

}  // namespace ticketry

void ticketry_use_team(void (*given)(void (*)(void*), void*, unsigned, unsigned)) {
  ticketry::team_process.store(getpid());
  ticketry::team.store(given);
}
