package policy

import (
	"maps"
	"slices"
)

// Budgets of all types, for whoever watches how full they are.
func (b *Bundle) Budgets() (all []BudgetSpec) {
	for _, name := range slices.Sorted(maps.Keys(b.types)) {
		all = append(all, b.types[name].budgets...)
	}
	return all
}
