// Instruction set, threads and the machine's limits.
#include "bindings/arrays.h"
#include "bindings/construct.h"
#include "kernels/table.h"
#include "ops/machine.h"
#include "runtime/buffer.h"
#include "runtime/cpus.h"
#include "runtime/machine.h"
#include "runtime/team.h"
#include "runtime/threads.h"

namespace convlane {

void bind_runtime(py::module_& m) {
  const auto names = [](auto&& keep) {
    std::vector<std::string> list;
    for (Isa isa : kAllIsas)
      if (keep(isa)) list.emplace_back(isa_name(isa));
    return list;
  };
  m.def("compiled_isas", [names] { return names(is_compiled); });
  m.def("supported_isas", [names] { return names([](Isa isa) { return table_for(isa) != nullptr; }); });
  m.def("active_isa", [] { return isa_name(active_table().isa); });
  m.def("set_active_isa", [](const std::string& name) { set_active_isa(name.c_str()); }, py::arg("name"));
  m.def("tile_sizes", [] {
    const KernelTable& t = active_table();
    return py::dict(py::arg("lanes") = t.lanes, py::arg("mr") = t.gemm.mr, py::arg("nr") = t.gemm.nr);
  });
  m.def("num_threads", &num_threads);
  m.def("set_num_threads", &set_num_threads, py::arg("count"));
  m.def("set_default_threads", &set_default_threads, py::arg("count"));
  m.def("exchange_thread_override", &exchange_thread_override, py::arg("count"));
  m.def("spin_microseconds", &spin_microseconds);
  m.def("set_spin_microseconds", &set_spin_microseconds, py::arg("time"));
  m.def("shuffle_pieces", &shuffle_pieces, py::arg("seed"));
  py::class_<MemoryHold>(m, "MemoryHold")
      .def("__init__", constructor([] { return std::make_unique<MemoryHold>(); }), NewStyle());
  m.def("caches", [] {
    const Caches& c = caches();
    return py::make_tuple(c.first, c.second, c.third);
  });
  m.def(
      "set_caches", [](int64_t first, int64_t second, int64_t third) { set_caches({first, second, third}); },
      py::arg("first"), py::arg("second"), py::arg("third"));
  m.def("available_cpus", &available_cpus);
  m.def("usable_cpus", &usable_cpus, py::arg("allowed"), py::arg("root"));
  m.def("measure_fma_peak", &measure_fma_peak, py::arg("threads"), py::call_guard<GilRelease>());
  m.def("measure_read_bandwidth", &measure_read_bandwidth, py::arg("bytes"), py::arg("threads"),
        py::call_guard<GilRelease>());
#ifdef __clang__
  m.attr("compiler") = "Clang " __clang_version__;
#else
  m.attr("compiler") = "GCC " __VERSION__;
#endif
#ifdef _OPENMP
  m.attr("openmp") = _OPENMP;
#else
  m.attr("openmp") = 0;
#endif
}

}  // namespace convlane
