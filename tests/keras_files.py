"""Files in the format of Keras 2, written by hand."""

import json

import h5py


def layer(kind, name, inputs=(), **settings):
    """Return the configuration of a layer of a functional model, as Keras 2 writes it."""
    nodes = [[[source, 0, 0, {}] for source in inputs]] if inputs else []
    settings = {"name": name, "trainable": True, **settings}
    return {"class_name": kind, "name": name, "config": settings, "inbound_nodes": nodes}


def functional(*layers, outputs=None, shape=(None, 4, 4, 2)):
    source = layer("InputLayer", "x", batch_input_shape=list(shape))
    outputs = outputs or [[layers[-1]["name"], 0, 0]]
    config = {"name": "m", "layers": [source, *layers], "input_layers": [["x", 0, 0]], "output_layers": outputs}
    return {"class_name": "Functional", "config": config}


def sequential(*layers, shape=(None, 4, 4, 2)):
    source = layer("InputLayer", "x", batch_input_shape=list(shape))
    return {"class_name": "Sequential", "config": {"name": "s", "layers": [source, *layers]}}


def write(path, model, arrays=(), version="2.15.0"):
    """Write an HDF5 file."""
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = model if isinstance(model, str) else json.dumps(model)
        if version is not None:
            file.attrs["keras_version"] = version
        root = file.create_group("model_weights")
        for name, own in dict(arrays).items():
            group = root.create_group(name)
            group.attrs["weight_names"] = [f"{name}/{i}:0".encode() for i in range(len(own))]
            for i, array in enumerate(own):
                group[f"{name}/{i}:0"] = array
    return path
