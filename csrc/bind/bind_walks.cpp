// Walks as Python sees them.
#include "base/array.h"
#include "base/limits.h"
#include "rows/walks.h"

namespace worldfast {
namespace {

// Walks start .. start+n-1 through chains [chains, states + 1, states], one drawn for each row by `prior`. Thresholds are
// shares of 2^53 and ascend; whatever they hold, a state is one of the chain's. `tokens` [n, length], `chain` [n], `names`
// [n, states]: names out of `drawn_names` tokens in a share of the rows of each chain, by the thresholds `renamed`.
void walks(uint64_t key, const py::object& table_, const py::object& prior_, int64_t drawn_names,
           const py::object& renamed_, int64_t start, int64_t n, const py::object& tokens_, const py::object& chain_,
           const py::object& names_, int threads) {
    const Array table(table_, "table"), prior(prior_, "prior"), renamed(renamed_, "renamed");
    const Array tokens(tokens_, "tokens"), chain(chain_, "chain"), names(names_, "names");
    WalkRule rule{};
    rule.key = key;
    rule.table = input<int64_t>(table, {Array::any, Array::any, Array::any});
    rule.chains = within("chains", table.shape(0), 1, int64_t{1} << 31);
    rule.states = within("states", table.shape(2), 2, most_states);
    rule.table = input<int64_t>(table, {rule.chains, rule.states + 1, rule.states});
    rule.prior = input<int64_t>(prior, {rule.chains});
    rule.names = within("drawn_names", drawn_names, rule.states, most_walk_names);
    rule.renamed = input<int64_t>(renamed, {rule.chains});
    within("n", n, 0, last_row);
    within("start", start, 0, last_row - n);
    int32_t* out = output<int32_t>(tokens, {n, Array::any});
    rule.length = within("length", tokens.shape(1), 1, longest_walk);
    int32_t* chosen = output<int32_t>(chain, {n});
    int32_t* named = output<int32_t>(names, {n, rule.states});
    apart({&tokens, &chain, &names}, {&table, &prior, &renamed});
    py::gil_scoped_release nogil;
    make_walks(rule, start, n, out, chosen, named, threads);
}

}  // namespace

void bind_walks(py::module_& m) {
    m.def("walks", &walks);
    m.attr("walk_bits") = walk_bits;
    m.attr("walk_limits") =
        py::dict(py::arg("length") = longest_walk, py::arg("states") = most_states, py::arg("names") = most_walk_names);
}

}  // namespace worldfast
