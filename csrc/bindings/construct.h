// Constructors of bound classes that may run out of memory at any point.
//
// pybind11 registers a new object, and makes its holder, after the constructor has returned, where an exception is not
// caught and ends in std::terminate. Here both happen within the call.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <utility>

namespace convlane {

namespace detail {

template <class Make, class Holder, class... Args>
auto construct(Make make, Holder (*)(Args...)) {
  return [make = std::move(make)](pybind11::detail::value_and_holder& object, Args... args) {
    Holder holder = make(std::forward<Args>(args)...);
    object.value_ptr() = holder.get();
    try {
      object.type->init_instance(object.inst, &holder);
    } catch (...) {
      object.value_ptr() = nullptr;  // the holder still owns the object
      throw;
    }
  };
}

}  // namespace detail

// To be bound as "__init__", followed by NewStyle: `make` returns the class's holder with a new object.
template <class Make>
auto constructor(Make make) {
  using Signature = pybind11::detail::function_signature_t<Make>;
  return detail::construct(std::move(make), static_cast<Signature*>(nullptr));
}

using NewStyle = pybind11::detail::is_new_style_constructor;

}  // namespace convlane
