// All bindings as one file: each would compile pybind11's own functions anew, and those take longer than all that is in
// these.
#include "bind/bind_attention.cpp"
#include "bind/bind_gram.cpp"
#include "bind/bind_label.cpp"
#include "bind/bind_layers.cpp"
#include "bind/bind_recurrent.cpp"
#include "bind/bind_stream.cpp"
#include "bind/bind_transformer.cpp"
#include "bind/bind_trials.cpp"
#include "bind/bind_walks.cpp"
#include "bind/bindings.cpp"
