"""The paper's figures, as tables and as pictures: `analysis.py` computes, `tables.py` prints, `pictures.py` draws.

    Equation 2      the FFN with a mask, as a schematic        draw_ffn
    Figure 1        overlap of all tasks in one layer          print_overlap, draw_overlap
    Figure 2        overlap of languages, layer by layer       print_layers, draw_overlap_by_layer
    Figures 3, 4    scores over depth, over k and the like     draw_lines, called in `experiments/`
    Figure 5        sparsity, layer by layer                   print_layers, draw_sparsity

Not in the paper: which directions share each neuron (draw_neuron_map), language families and trees, ablation, gains by
direction, training curves.
"""
from minispec.figures.analysis import Profile, ablate, layer_names, sparsity, specific_neurons
from minispec.figures.pictures import draw_ablation, draw_all, draw_curve, draw_gains, draw_lines, new_figure
from minispec.figures.tables import print_ablation, print_all

__all__ = ['Profile', 'ablate', 'layer_names', 'sparsity', 'specific_neurons', 'print_all', 'print_ablation',
           'draw_all', 'draw_ablation', 'draw_curve', 'draw_gains', 'draw_lines', 'new_figure']
