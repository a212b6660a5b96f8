#include "runtime/team.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <new>

#include "runtime/affinity.h"
#include "runtime/float_state.h"
#include "runtime/threads.h"

#ifdef _OPENMP
#include <omp.h>
#else
#include <thread>
#include <vector>
#endif
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#if defined(_OPENMP) && defined(__clang__)
#define CONVLANE_LLVM_OPENMP 1
extern "C" void kmp_set_blocktime(int milliseconds) __attribute__((weak));
#endif

namespace convlane {
namespace {

std::atomic<int> spin_time{50};
std::atomic<std::uint32_t> shuffle_seed{0};

void pause() noexcept {
#if defined(__SSE__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

#ifdef _OPENMP
#ifdef CONVLANE_LLVM_OPENMP
const bool wait_is_chosen = std::getenv("KMP_BLOCKTIME") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr;
#endif

// LLVM's OpenMP lets a team's threads spin for 200 ms after a region; with a limit of 1 ms they waste less CPU time
// (Clang 14, 2026-11-26). GCC's is configured when it is loaded, see _openmp.py.
void wait_briefly() noexcept {
#ifdef CONVLANE_LLVM_OPENMP
  if (!wait_is_chosen && kmp_set_blocktime != nullptr) kmp_set_blocktime(1);  // for this thread's teams
#endif
}

// Calls run(member, members) in up to `threads` threads, of which the caller is member 0. Returns false, without
// calling anything, if no team can be started.
template <class Run>
bool together(int threads, const Run& run) {
  static_assert(noexcept(run(0, 1)));
  if (!can_have_team(threads)) return false;
  wait_briefly();
  const FloatState caller;
#pragma omp parallel num_threads(threads)
  {
    const BorrowedFloatState borrowed(caller);
    run(omp_get_thread_num(), omp_get_num_threads());
  }
  return true;
}
#endif

// The pieces left in a stretch, tagged with the number of its range. They share one word so that a late thread changes
// nothing: once a range is done, none of its words has pieces left.
struct Stretch {
  std::uint32_t range;
  std::uint16_t begin, end;

  static constexpr int kMostPieces = 65535;

  std::uint64_t word() const { return std::uint64_t{range} << 32 | std::uint32_t{begin} << 16 | end; }
  static Stretch of(std::uint64_t word) {
    return {static_cast<std::uint32_t>(word >> 32), static_cast<std::uint16_t>(word >> 16),
            static_cast<std::uint16_t>(word)};
  }
};

// One member of a team.
class alignas(64) Member {
 public:
  std::atomic<std::uint64_t> stretch{0};
  Affinity affinity;

  // Waits until ready() holds; whoever makes it hold calls wake() afterwards.
  template <class Ready>
  void wait(int microseconds, const Ready& ready) {
    if (spin(microseconds, ready)) return;
    std::unique_lock<std::mutex> lock(mutex_);
    asleep_.store(true);  // before ready() is checked again: the waker reads it after making the change, so at least
                          // one of the two sees what the other wrote
    awake_.wait(lock, ready);
    asleep_.store(false, std::memory_order_relaxed);
  }

  void wake() {
    if (!asleep_.load()) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    awake_.notify_one();
  }

  template <class Ready>
  static bool spin(int microseconds, const Ready& ready) {
    using Clock = std::chrono::steady_clock;
    constexpr int kBetweenLooks = 16;  // between looks at the clock, which cost as much as one or two pauses
    if (ready()) return true;
    if (microseconds == 0) return false;
    for (const auto end = Clock::now() + std::chrono::microseconds(microseconds); Clock::now() < end;)
      for (int i = 0; i < kBetweenLooks; ++i) {
        if (ready()) return true;
        pause();
      }
    return ready();
  }

 private:
  alignas(64) std::atomic<bool> asleep_{false};
  std::mutex mutex_;
  std::condition_variable awake_;
};

// The team that a thread leads and keeps for its next range.
class Team {
 public:
#ifndef _OPENMP
  ~Team();
#endif
  bool lead(int threads, void (*run)(const void*), const void* object);
  void share_out(const SharedRange& range) noexcept;

 private:
  static constexpr std::uint32_t kDismissed = 0;  // not the number of any range
  static constexpr int kCrowdedRuns = 4;          // an estimate

  bool make_members(int threads) noexcept;
  void publish(const SharedRange& range, int members) noexcept;
  bool take(int from, bool own, std::uint32_t number, std::uint32_t& random, int& first, int& count) noexcept;
  void work(int member, std::uint32_t number) noexcept;
  void serve(int member) noexcept;
  void dismiss() noexcept;
  void run_alone(const SharedRange& range) const noexcept;
  void share_by_servers(const SharedRange& range) noexcept;
  bool share_by_team(const SharedRange& range) noexcept;  // false if there is no team
  // How long a thread spins: not at all where threads outnumber CPUs, because a spinning thread may keep the CPU from
  // the very thread that it waits for.
  int patience() const noexcept { return has_cpus() ? spin_time.load(std::memory_order_relaxed) : 0; }
  bool has_cpus() const noexcept { return capacity_ <= usual_cpus(); }
  bool crowded() const noexcept { return crowded_.load(std::memory_order_relaxed) > 0; }
  void keep_apart(int member) noexcept;

  std::unique_ptr<Member[]> members_;
  int capacity_ = 0;
  int size_ = 1;          // threads that may take part in the current range
  bool working_ = false;  // this thread computes a piece; ranges that the piece shares out run in this thread alone
  bool wanted_ = false;   // something was shared out
#ifdef _OPENMP
  void await_servers() noexcept;

  bool leading_ = false;  // there is a team for everything that is shared out
#else
  bool start_servers(int threads) noexcept;
  void stop_servers() noexcept;

  std::vector<std::thread> servers_;
  int asked_ = 0;  // the largest number of threads requested
  FloatState caller_;
#endif
  std::uint32_t number_ = 1, first_number_ = 1;  // of the current range, and of the last one before this team

  std::atomic<int> leader_cpu_{-1};  // when it published the current range
  // For how many more runs the CPUs are taken to be shared with other programs, because a thread was recently found on
  // the leader's CPU. Threads that spin would then use up the time that the system gives them for work.
  std::atomic<int> crowded_{0};

  // Of the current range. All but most_ may be read only by a thread that has taken a piece of it.
  SharedRange range_{};
  std::int64_t pieces_ = 0;
  std::atomic<int> most_{1};                       // maximum number of pieces taken at once
  alignas(64) std::atomic<std::int64_t> left_{0};  // pieces not done yet; after dismiss(), threads not gone yet
};

Team& team_of_this_thread();

// False when out of memory.
bool Team::make_members(int threads) noexcept {
  if (threads > capacity_) {
    members_.reset(new (std::nothrow) Member[static_cast<std::size_t>(threads)]);
    capacity_ = members_ == nullptr ? 0 : threads;
    if (capacity_ == 0) return false;
  }
  first_number_ = number_;
  for (int i = 0; i < threads; ++i) members_[i].stretch.store(Stretch{number_, 0, 0}.word(), std::memory_order_relaxed);
  return true;
}

void Team::publish(const SharedRange& range, int members) noexcept {
  const int pieces = static_cast<int>(std::clamp<std::int64_t>(
      range.count / range.parts, 1, std::min(range.pieces, Stretch::kMostPieces / range.parts)));
  range_ = range;
#ifndef _OPENMP
  caller_ = FloatState();
#endif
  pieces_ = std::int64_t{pieces} * range.parts;
  most_.store(pieces, std::memory_order_relaxed);
  left_.store(pieces_, std::memory_order_relaxed);
  leader_cpu_.store(current_cpu(), std::memory_order_relaxed);
  if (++number_ == kDismissed) ++number_;
  for (std::int64_t i = 0; i < members; ++i)
    members_[i].stretch.store(Stretch{number_, static_cast<std::uint16_t>(pieces_ * i / members),
                                      static_cast<std::uint16_t>(pieces_ * (i + 1) / members)}
                                  .word());
  for (int i = 1; i < members; ++i) members_[i].wake();
}

std::uint32_t next_random(std::uint32_t& state) {  // G. Marsaglia's xorshift, 2003
  state ^= state << 13;
  state ^= state >> 17;
  return state ^= state << 5;
}

bool Team::take(int from, bool own, std::uint32_t number, std::uint32_t& random, int& first, int& count) noexcept {
  std::atomic<std::uint64_t>& stretch = members_[from].stretch;
  for (std::uint64_t word = stretch.load();;) {
    const Stretch s = Stretch::of(word);
    const int left = s.end - s.begin;
    if (s.range != number || left == 0) return false;
    count = std::min((left + 1) / 2, most_.load(std::memory_order_relaxed));
    if (random != 0) {
      count = 1 + static_cast<int>(next_random(random) % static_cast<std::uint32_t>(count));
      own = next_random(random) % 2 == 0;
    }
    first = own ? s.begin : s.end - count;
    const Stretch rest{number, static_cast<std::uint16_t>(own ? s.begin + count : s.begin),
                       static_cast<std::uint16_t>(own ? s.end : s.end - count)};
    if (stretch.compare_exchange_weak(word, rest.word())) return true;
  }
}

// Takes pieces until none are left.
void Team::work(int member, std::uint32_t number) noexcept {
  std::uint32_t random = shuffle_seed.load(std::memory_order_relaxed);
  if (random != 0) random = std::max(random * 2654435761u ^ (number * 40503u + static_cast<std::uint32_t>(member)), 1u);
  const int start = random == 0 ? member : static_cast<int>(random % static_cast<std::uint32_t>(size_));
  std::int64_t done = 0;
  for (int i = 0; i < size_; ++i) {
    const int from = (start + i) % size_;
    for (int first = 0, count = 0; take(from, from == member, number, random, first, count); done += count) {
#ifndef _OPENMP
      if (member != 0) caller_.set();
#endif
      const std::int64_t begin = range_.count * first / pieces_, end = range_.count * (first + count) / pieces_;
      range_.body(range_.object, begin, end, member);
    }
  }
  if (done != 0 && left_.fetch_sub(done) == done && member != 0) members_[0].wake();
}

void Team::serve(int member) noexcept {
#ifndef _OPENMP
  team_of_this_thread().working_ = true;
#endif
  std::atomic<std::uint64_t>& stretch = members_[member].stretch;
  const auto number = [&] { return Stretch::of(stretch.load()).range; };
  if (crowded() && has_cpus()) members_[member].affinity.enter(capacity_);
  for (std::uint32_t last = first_number_;;) {
    members_[member].wait(crowded() ? 0 : patience(), [&] { return number() != last; });
    last = number();
    if (last == kDismissed) break;
    if (has_cpus()) keep_apart(member);
    work(member, last);
  }
  members_[member].affinity.leave();
  if (left_.fetch_sub(1) == 1) members_[0].wake();
}

void Team::keep_apart(int member) noexcept {
  const int cpu = current_cpu();
  Affinity& affinity = members_[member].affinity;
  if (cpu < 0 || cpu != leader_cpu_.load(std::memory_order_relaxed) || !affinity.enter(capacity_)) return;
  affinity.avoid(cpu);
#ifndef _OPENMP
  affinity.leave();  // this thread may never be dismissed
#endif
  crowded_.store(kCrowdedRuns, std::memory_order_relaxed);
}

void Team::dismiss() noexcept {
  left_.store(size_ - 1);
  for (int i = 1; i < size_; ++i) {
    members_[i].stretch.store(Stretch{kDismissed, 0, 0}.word());
    members_[i].wake();
  }
}

#ifdef _OPENMP
// OpenMP's region ends only when all of its threads do, and a suspended thread may for a long time get no CPU but this
// one.
void Team::await_servers() noexcept {
  const auto gone = [&] { return left_.load() == 0; };
  if (Member::spin(patience(), gone)) return;
  for (int i = 1; i < size_; ++i) members_[i].affinity.pin(current_cpu());
  members_[0].wait(0, gone);
}
#endif

// Part by part, because a body may rely on working alone in its part.
void Team::run_alone(const SharedRange& range) const noexcept {
  const std::int64_t parts = range.parts;
  const std::int64_t start = shuffle_seed.load(std::memory_order_relaxed) % parts;
  for (std::int64_t i = 0; i < parts; ++i) {
    const std::int64_t part = (start + i) % parts;
    range.body(range.object, range.count * part / parts, range.count * (part + 1) / parts, static_cast<int>(part));
  }
}

void Team::share_out(const SharedRange& range) noexcept {
  wanted_ = true;
  if (working_ || !share_by_team(range)) run_alone(range);
}

// Shares a range among threads that are already serving.
void Team::share_by_servers(const SharedRange& range) noexcept {
  publish(range, std::min(range.parts, size_));
  working_ = true;
  work(0, number_);
  working_ = false;
  members_[0].wait(patience(), [&] { return left_.load() == 0; });
}

#ifdef _OPENMP

bool Team::share_by_team(const SharedRange& range) noexcept {
  if (leading_) {
    share_by_servers(range);
    return true;
  }
  if (!make_members(range.parts)) return false;
  size_ = range.parts;
  publish(range, size_);
  working_ = true;
  const bool done = together(range.parts, [this](int member, int) noexcept { work(member, number_); });
  working_ = false;
  return done;
}

bool Team::lead(int threads, void (*run)(const void*), const void* object) {
  wanted_ = false;
  if (crowded()) crowded_.fetch_sub(1, std::memory_order_relaxed);
  std::exception_ptr thrown;  // no exception may leave a parallel region
  const auto serve_or_run = [&](int member, int members) noexcept {
    if (member != 0) return serve(member);
    size_ = members;
    leading_ = true;
    try {
      run(object);
    } catch (...) {
      thrown = std::current_exception();
    }
    leading_ = false;
    dismiss();
    if (crowded()) await_servers();
  };
  if (threads < 2 || leading_ || working_ || !make_members(threads) || !together(threads, serve_or_run)) run(object);
  if (thrown) std::rethrow_exception(thrown);
  return wanted_;
}

#else

// Starts threads of the team's own, as many as were ever requested, which sleep until there is work. False if there are
// none: in a child of fork(), where they do not exist, or where the system refuses them.
bool Team::start_servers(int threads) noexcept {
  if (in_forked_child()) return false;
  if (threads <= asked_) return size_ > 1;
  stop_servers();
  if (!make_members(threads)) return false;
  asked_ = threads;
  try {
    servers_.reserve(static_cast<std::size_t>(threads));
    for (; size_ < threads; ++size_) servers_.emplace_back([this, member = size_]() noexcept { serve(member); });
  } catch (const std::exception&) {  // std::system_error, std::bad_alloc
  }
  return size_ > 1;
}

void Team::stop_servers() noexcept {
  dismiss();
  for (std::thread& server : servers_) server.join();
  servers_.clear();
  size_ = 1;
  asked_ = 0;
}

bool Team::share_by_team(const SharedRange& range) noexcept {
  if (!start_servers(range.parts)) return false;
  share_by_servers(range);
  return true;
}

bool Team::lead(int, void (*run)(const void*), const void* object) {
  wanted_ = false;
  if (crowded()) crowded_.fetch_sub(1, std::memory_order_relaxed);
  run(object);
  return wanted_;
}

Team::~Team() {
  if (!in_forked_child()) {
    stop_servers();
    return;
  }
  // These threads do not exist here, so they cannot be joined, and the objects they slept on are leaked for good.
  new std::vector<std::thread>(std::move(servers_));
  members_.release();
}

#endif

Team& team_of_this_thread() {
  thread_local Team team;
  return team;
}

}  // namespace

void share_out(const SharedRange& range) noexcept { team_of_this_thread().share_out(range); }

bool lead_team(int threads, void (*lead)(const void* object), const void* object) {
  return team_of_this_thread().lead(threads, lead, object);
}

void set_spin_microseconds(int time) { spin_time.store(time); }
int spin_microseconds() { return spin_time.load(); }
void shuffle_pieces(std::uint32_t seed) { shuffle_seed.store(seed); }

}  // namespace convlane
