"""Architectures of the `transformers` package through torch.onnx.export, against onnxruntime and torch.

    python benchmarks/transformers_zoo.py export  --out DIR [--only REGEX]     needs torch, onnxscript, transformers
    python benchmarks/transformers_zoo.py compare --out DIR [--only REGEX]     needs onnxruntime

Every model has random weights and a small configuration. `export` writes `DIR/NAME/model.onnx` (batch dimension free
where the model allows), inputs, and torch's own outputs; a model that is there already is kept, a failure is written to
`DIR/NAME/error.txt`. `compare` runs every file here and in onnxruntime (with one row more where the batch is free) and prints a Markdown table:
the largest difference, relative to the largest value of the output. It exits with 1 where one is above BOUND.
"""

# ruff: noqa: C408  (configurations read as keyword arguments)
from __future__ import annotations

import argparse
import json
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

BOUND = 1e-4
BATCH, LENGTH, VOCABULARY = 2, 12, 99

SMALL = dict(
    vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=37,
    max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
GROUPED = dict(SMALL, num_key_value_heads=2, head_dim=8, use_cache=False)
PICTURE = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=37, image_size=32, patch_size=8, num_channels=3,
)  # fmt: skip
SPEECH = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=37, vocab_size=32, conv_dim=(16, 16, 16),
    conv_kernel=(10, 3, 3), conv_stride=(5, 2, 2), num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
    num_feat_extract_layers=3, pad_token_id=0,
)  # fmt: skip
TRANSLATE = dict(
    vocab_size=VOCABULARY, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
    encoder_ffn_dim=37, decoder_ffn_dim=37, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    decoder_start_token_id=2, use_cache=False,
)  # fmt: skip
STAGES = dict(depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], embedding_size=8, num_channels=3)
Inputs = dict[str, np.ndarray]


def text(rng: np.random.Generator) -> Inputs:
    mask = np.ones((BATCH, LENGTH), np.int64)
    mask[1, -3:] = 0
    return {"input_ids": _ids(rng), "attention_mask": mask}


def tokens(rng: np.random.Generator) -> Inputs:
    return {"input_ids": _ids(rng)}


def pair(rng: np.random.Generator) -> Inputs:
    return {**text(rng), "decoder_input_ids": _ids(rng)[:, :7]}


def image(size: int = 32) -> Callable[[np.random.Generator], Inputs]:
    return lambda rng: {"pixel_values": rng.standard_normal((BATCH, 3, size, size)).astype(np.float32)}


def sound(length: int = 800) -> Callable[[np.random.Generator], Inputs]:
    return lambda rng: {"input_values": rng.standard_normal((BATCH, length)).astype(np.float32)}


def image_text(size: int = 32) -> Callable[[np.random.Generator], Inputs]:
    return lambda rng: {**text(rng), **image(size)(rng)}


def features(frames: int, bins: int, **more: Any) -> Callable[[np.random.Generator], Inputs]:
    def make(rng: np.random.Generator) -> Inputs:
        return {"input_features": rng.standard_normal((BATCH, bins, frames)).astype(np.float32), **more}

    return make


def _ids(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(3, VOCABULARY, (BATCH, LENGTH))


def boxes(rng: np.random.Generator) -> Inputs:
    corners = np.sort(rng.integers(0, 60, (BATCH, LENGTH, 2, 2)), axis=2)
    return {**text(rng), "bbox": corners.reshape(BATCH, LENGTH, 4).astype(np.int64)}


def _vision_pair(text_part: dict[str, Any] | None = None, vision_part: dict[str, Any] | None = None) -> dict[str, Any]:
    return dict(
        text_config=dict(SMALL, projection_dim=16, **(text_part or {})),
        vision_config=dict(PICTURE, projection_dim=16, **(vision_part or {})),
        projection_dim=16,
    )


# name -> (class, configuration, inputs). The name is the architecture's own in `transformers.models`.
MODELS: dict[str, tuple[str, dict[str, Any], Callable[[np.random.Generator], Inputs]]] = {
    "bert": ("BertForSequenceClassification", SMALL, text),
    "gpt2": ("GPT2LMHeadModel", dict(vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=4, use_cache=False), text),
    "t5": ("T5ForConditionalGeneration", dict(vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4, decoder_start_token_id=0, use_cache=False), pair),
    "llama": ("LlamaForCausalLM", GROUPED, text),
    "vit": ("ViTForImageClassification", PICTURE, image()),
    "whisper": ("WhisperModel", dict(TRANSLATE, num_mel_bins=20, max_source_positions=30, max_target_positions=32), lambda rng: {**features(60, 20)(rng), "decoder_input_ids": _ids(rng)[:, :7]}),
    "wav2vec2": ("Wav2Vec2ForCTC", SPEECH, sound()),
    "clip": ("CLIPModel", _vision_pair(), image_text()),
    "detr": ("DetrForObjectDetection", dict(TRANSLATE, use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=dict(model_type="resnet", depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], embedding_size=8, out_features=["stage4"]), num_queries=6), image(64)),
    "segformer": ("SegformerForSemanticSegmentation", dict(depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 2, 2, 4], decoder_hidden_size=16), image(64)),
    "swin": ("SwinForImageClassification", dict(image_size=32, patch_size=2, embed_dim=16, depths=[1, 2], num_heads=[2, 2], window_size=4), image()),
    "convnext": ("ConvNextForImageClassification", dict(depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32]), image(64)),
    "bart": ("BartForConditionalGeneration", TRANSLATE, pair),
    "deberta_v2": ("DebertaV2Model", dict(SMALL, relative_attention=True, position_buckets=8, pos_att_type=["p2c", "c2p"], type_vocab_size=0), text),
    "deberta": ("DebertaModel", dict(SMALL, relative_attention=True, pos_att_type=["p2c", "c2p"], max_relative_positions=16), text),
    "mistral": ("MistralForCausalLM", dict(GROUPED, sliding_window=8), text),
    "qwen2": ("Qwen2ForCausalLM", GROUPED, text),
    "gemma": ("GemmaForCausalLM", GROUPED, text),
    "phi": ("PhiForCausalLM", dict(SMALL, use_cache=False), text),
    "roberta": ("RobertaForTokenClassification", SMALL, text),
    "albert": ("AlbertModel", dict(SMALL, embedding_size=16), text),
    "distilbert": ("DistilBertForQuestionAnswering", dict(vocab_size=VOCABULARY, dim=32, n_layers=2, n_heads=4, hidden_dim=37, max_position_embeddings=64), text),
    "electra": ("ElectraModel", dict(SMALL, embedding_size=16), text),
    "mpnet": ("MPNetModel", SMALL, text),
    "squeezebert": ("SqueezeBertModel", dict(SMALL, embedding_size=32, q_groups=2, k_groups=2, v_groups=2, post_attention_groups=2, intermediate_groups=2, output_groups=2, intermediate_size=36), text),
    "mobilebert": ("MobileBertModel", dict(SMALL, embedding_size=32, intra_bottleneck_size=32, num_feedforward_networks=2), text),
    "convbert": ("ConvBertModel", dict(SMALL, embedding_size=32), text),
    "funnel": ("FunnelModel", dict(vocab_size=VOCABULARY, block_sizes=[1, 1], num_decoder_layers=1, d_model=32, n_head=4, d_head=8, d_inner=37), text),
    "roformer": ("RoFormerModel", dict(SMALL, embedding_size=32), text),
    "rembert": ("RemBertModel", dict(SMALL, input_embedding_size=16, output_embedding_size=16), text),
    "nystromformer": ("NystromformerModel", dict(SMALL, num_landmarks=LENGTH, segment_means_seq_len=LENGTH), text),
    "fnet": ("FNetModel", SMALL, tokens),
    "canine": ("CanineModel", dict(SMALL, num_hash_buckets=50, local_transformer_stride=4, downsampling_rate=4), text),
    "esm": ("EsmModel", dict(SMALL, position_embedding_type="rotary", mask_token_id=3), text),
    "ibert": ("IBertModel", SMALL, text),
    "modernbert": ("ModernBertModel", dict(SMALL, sep_token_id=2, cls_token_id=1, global_attn_every_n_layers=2, local_attention=8), text),
    "nomic_bert": ("NomicBertModel", SMALL, text),
    "megatron_bert": ("MegatronBertModel", SMALL, text),
    "big_bird": ("BigBirdModel", dict(SMALL, attention_type="original_full"), text),
    "longformer": ("LongformerModel", dict(SMALL, attention_window=[4, 4]), text),
    "xlnet": ("XLNetModel", dict(vocab_size=VOCABULARY, d_model=32, n_layer=2, n_head=4, d_inner=37), tokens),
    "xlm_roberta": ("XLMRobertaModel", SMALL, text),
    "layoutlm": ("LayoutLMModel", dict(SMALL, max_2d_position_embeddings=64), boxes),
    "openai": ("OpenAIGPTModel", dict(vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=4), tokens),
    "gpt_neo": ("GPTNeoForCausalLM", dict(vocab_size=VOCABULARY, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], max_position_embeddings=64, window_size=8, use_cache=False), text),
    "gpt_neox": ("GPTNeoXForCausalLM", dict(SMALL, use_cache=False), text),
    "gptj": ("GPTJForCausalLM", dict(vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, use_cache=False), text),
    "codegen": ("CodeGenForCausalLM", dict(vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, use_cache=False), text),
    "bloom": ("BloomForCausalLM", dict(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, use_cache=False), text),
    "opt": ("OPTForCausalLM", dict(SMALL, ffn_dim=37, word_embed_proj_dim=32, use_cache=False), text),
    "falcon": ("FalconForCausalLM", dict(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, use_cache=False), text),
    "mpt": ("MptForCausalLM", dict(vocab_size=VOCABULARY, d_model=32, n_heads=4, n_layers=2, max_seq_len=64, use_cache=False), text),
    "qwen3": ("Qwen3ForCausalLM", GROUPED, text),
    "gemma2": ("Gemma2ForCausalLM", dict(GROUPED, sliding_window=8), text),
    "gemma3": ("Gemma3ForCausalLM", dict(GROUPED, sliding_window=8), text),
    "phi3": ("Phi3ForCausalLM", GROUPED, text),
    "stablelm": ("StableLmForCausalLM", GROUPED, text),
    "starcoder2": ("Starcoder2ForCausalLM", GROUPED, text),
    "cohere": ("CohereForCausalLM", GROUPED, text),
    "olmo": ("OlmoForCausalLM", GROUPED, text),
    "olmo2": ("Olmo2ForCausalLM", GROUPED, text),
    "granite": ("GraniteForCausalLM", GROUPED, text),
    "glm": ("GlmForCausalLM", dict(GROUPED, partial_rotary_factor=0.5), text),
    "smollm3": ("SmolLM3ForCausalLM", GROUPED, text),
    "nemotron": ("NemotronForCausalLM", GROUPED, text),
    "biogpt": ("BioGptForCausalLM", dict(SMALL, use_cache=False), text),
    "xglm": ("XGLMForCausalLM", dict(vocab_size=VOCABULARY, d_model=32, ffn_dim=37, num_layers=2, attention_heads=4, max_position_embeddings=64, use_cache=False), text),
    "mixtral": ("MixtralForCausalLM", dict(GROUPED, intermediate_size=64, num_local_experts=4, num_experts_per_tok=2), text),
    "mamba": ("MambaForCausalLM", dict(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=8, use_cache=False), tokens),
    "rwkv": ("RwkvForCausalLM", dict(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32, intermediate_size=37, use_cache=False), tokens),
    "mbart": ("MBartForConditionalGeneration", TRANSLATE, pair),
    "pegasus": ("PegasusForConditionalGeneration", TRANSLATE, pair),
    "marian": ("MarianMTModel", TRANSLATE, pair),
    "m2m_100": ("M2M100ForConditionalGeneration", TRANSLATE, pair),
    "blenderbot_small": ("BlenderbotSmallForConditionalGeneration", TRANSLATE, pair),
    "led": ("LEDForConditionalGeneration", dict(TRANSLATE, attention_window=4, max_encoder_position_embeddings=64, max_decoder_position_embeddings=64), pair),
    "prophetnet": ("ProphetNetModel", dict(vocab_size=VOCABULARY, hidden_size=32, num_encoder_layers=2, num_decoder_layers=2, num_encoder_attention_heads=4, num_decoder_attention_heads=4, encoder_ffn_dim=37, decoder_ffn_dim=37, max_position_embeddings=64, ngram=2, pad_token_id=0, use_cache=False), lambda rng: {**tokens(rng), "decoder_input_ids": _ids(rng)[:, :7]}),
    "mt5": ("MT5ForConditionalGeneration", dict(vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4, decoder_start_token_id=0, use_cache=False), pair),
    "longt5": ("LongT5ForConditionalGeneration", dict(vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4, local_radius=4, decoder_start_token_id=0, use_cache=False), pair),
    "deit": ("DeiTForImageClassification", PICTURE, image()),
    "beit": ("BeitForImageClassification", PICTURE, image()),
    "dinov2": ("Dinov2ForImageClassification", PICTURE, image()),
    "vit_mae": ("ViTMAEModel", dict(PICTURE, mask_ratio=0.0), lambda rng: {**image()(rng), "noise": rng.random((BATCH, 16)).astype(np.float32)}),
    "resnet": ("ResNetForImageClassification", STAGES, image(64)),
    "regnet": ("RegNetForImageClassification", dict(STAGES, groups_width=8), image(64)),
    "mobilenet_v1": ("MobileNetV1ForImageClassification", dict(depth_multiplier=0.25, min_depth=4, image_size=64), image(64)),
    "mobilenet_v2": ("MobileNetV2ForImageClassification", dict(depth_multiplier=0.25, min_depth=4, image_size=64), image(64)),
    "mobilevit": ("MobileViTForImageClassification", dict(image_size=64, patch_size=2, hidden_sizes=[16, 20, 24], neck_hidden_sizes=[8, 8, 12, 16, 20, 24, 32]), image(64)),
    "efficientnet": ("EfficientNetForImageClassification", dict(image_size=64, width_coefficient=0.25, depth_coefficient=0.25, hidden_dim=320, depthwise_padding=[]), image(64)),
    "poolformer": ("PoolFormerForImageClassification", dict(depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32]), image(64)),
    "pvt": ("PvtForImageClassification", dict(image_size=64, depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 2, 2, 4]), image(64)),
    "levit": ("LevitForImageClassification", dict(image_size=64, hidden_sizes=[16, 24, 32], num_attention_heads=[2, 2, 2], depths=[1, 1, 1], key_dim=[8, 8, 8], down_ops=[["Subsample", 8, 2, 4, 2, 2], ["Subsample", 8, 3, 4, 2, 2]]), image(64)),
    "cvt": ("CvtForImageClassification", dict(embed_dim=[8, 16, 24], num_heads=[1, 2, 3], depth=[1, 2, 3]), image(64)),
    "swinv2": ("Swinv2ForImageClassification", dict(image_size=32, patch_size=2, embed_dim=16, depths=[1, 2], num_heads=[2, 2], window_size=4), image()),
    "focalnet": ("FocalNetForImageClassification", dict(image_size=32, patch_size=2, embed_dim=16, depths=[1, 1], hidden_sizes=[16, 32], focal_levels=[2, 2], focal_windows=[3, 3]), image()),
    "convnextv2": ("ConvNextV2ForImageClassification", dict(depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32]), image(64)),
    "bit": ("BitForImageClassification", dict(STAGES, num_groups=4), image(64)),
    "dpt": ("DPTForDepthEstimation", dict(PICTURE, num_hidden_layers=4, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=16, is_hybrid=False), image()),
    "glpn": ("GLPNForDepthEstimation", dict(depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 2, 2, 4], decoder_hidden_size=16), image(64)),
    "yolos": ("YolosForObjectDetection", dict(PICTURE, image_size=[64, 64], num_detection_tokens=5), image(64)),
    "conditional_detr": ("ConditionalDetrForObjectDetection", dict(TRANSLATE, use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=dict(model_type="resnet", depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], embedding_size=8, out_features=["stage4"]), num_queries=6), image(64)),
    "siglip": ("SiglipModel", _vision_pair(), image_text()),
    "blip": ("BlipForImageTextRetrieval", _vision_pair(), image_text()),
    "vilt": ("ViltModel", dict(SMALL, image_size=32, patch_size=8, num_channels=3, max_image_length=-1), lambda rng: {**image_text()(rng), "pixel_mask": np.ones((BATCH, 32, 32), np.int64)}),
    "clipseg": ("CLIPSegForImageSegmentation", dict(_vision_pair(), extract_layers=[0, 1], reduce_dim=16, decoder_num_attention_heads=4, decoder_intermediate_size=37), image_text()),
    "chinese_clip": ("ChineseCLIPModel", _vision_pair(), image_text()),
    "owlvit": ("OwlViTModel", _vision_pair(), image_text()),
    "upernet": ("UperNetForSemanticSegmentation", dict(backbone=None, use_pretrained_backbone=False, backbone_config=dict(model_type="convnext", depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], out_features=["stage1", "stage2", "stage3", "stage4"]), hidden_size=16, auxiliary_in_channels=24, auxiliary_channels=8), image(64)),
    "hubert": ("HubertForCTC", SPEECH, sound()),
    "wavlm": ("WavLMModel", SPEECH, sound()),
    "unispeech": ("UniSpeechModel", SPEECH, sound()),
    "data2vec_audio": ("Data2VecAudioModel", dict(SPEECH, conv_pos_kernel_size=3, num_conv_pos_embeddings=2), sound()),
    "sew": ("SEWModel", dict(SPEECH, squeeze_factor=2), sound()),
    "wav2vec2_conformer": ("Wav2Vec2ConformerModel", SPEECH, sound()),
    "audio_spectrogram_transformer": ("ASTForAudioClassification", dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=37, patch_size=4, frequency_stride=4, time_stride=4, max_length=24, num_mel_bins=16), lambda rng: {"input_values": rng.standard_normal((BATCH, 24, 16)).astype(np.float32)}),
    "speech_to_text": ("Speech2TextForConditionalGeneration", dict(TRANSLATE, input_feat_per_channel=16, input_channels=1, conv_channels=16, num_conv_layers=2, conv_kernel_sizes=[5, 5], max_source_positions=64, max_target_positions=64), lambda rng: {"input_features": rng.standard_normal((BATCH, 40, 16)).astype(np.float32), "decoder_input_ids": _ids(rng)[:, :7]}),
    "moonshine": ("MoonshineModel", dict(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=37, encoder_num_hidden_layers=2, decoder_num_hidden_layers=2, encoder_num_attention_heads=4, decoder_num_attention_heads=4, max_position_embeddings=64, use_cache=False, pad_token_id=0), lambda rng: {"input_values": rng.standard_normal((BATCH, 2000)).astype(np.float32), "decoder_input_ids": _ids(rng)[:, :7]}),
    "encodec": ("EncodecModel", dict(num_filters=4, num_residual_layers=1, hidden_size=16, codebook_size=32, upsampling_ratios=[4, 2], compress=2, num_lstm_layers=1, target_bandwidths=[12.0], sampling_rate=8000), lambda rng: {"input_values": rng.standard_normal((BATCH, 1, 640)).astype(np.float32)}),
    "patchtst": ("PatchTSTForPrediction", dict(num_input_channels=3, context_length=32, patch_length=8, patch_stride=8, prediction_length=4, d_model=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=37, loss="mse"), lambda rng: {"past_values": rng.standard_normal((BATCH, 32, 3)).astype(np.float32)}),
    "patchtsmixer": ("PatchTSMixerForPrediction", dict(num_input_channels=3, context_length=32, patch_length=8, patch_stride=8, prediction_length=4, d_model=16, num_layers=2, loss="mse"), lambda rng: {"past_values": rng.standard_normal((BATCH, 32, 3)).astype(np.float32)}),
}  # fmt: skip


def export(name: str, folder: Path, opset: int | None) -> None:
    """Build, run and export one model."""
    # transformers looks for a package "kernels"; a file here has that name.
    sys.path[:] = [entry for entry in sys.path if entry != str(Path(__file__).resolve().parent)]
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    class_name, settings, make = MODELS[name]
    kind = getattr(transformers, class_name)
    configuration = kind.config_class(**settings)
    configuration.return_dict = True
    torch.manual_seed(0)
    model = kind(configuration).eval()
    inputs = make(np.random.default_rng(0))
    _awaken(torch, model, {key: torch.from_numpy(value) for key, value in inputs.items()})

    class Plain(torch.nn.Module):
        """Named tensors in, a flat tuple of float tensors out."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, feeds: dict[str, Any]) -> tuple[Any, ...]:
            found = self.model(**feeds)
            leaves = torch.utils._pytree.tree_leaves(found.to_tuple() if hasattr(found, "to_tuple") else found)
            return tuple(leaf for leaf in leaves if isinstance(leaf, torch.Tensor))

    plain = Plain().eval()
    feeds = {key: torch.from_numpy(value) for key, value in inputs.items()}
    with torch.no_grad():
        answers = [value.numpy() for value in plain(feeds)]
    if not all(np.isfinite(answer).all() for answer in answers if answer.dtype.kind == "f"):
        raise ValueError("the model's own answers are not finite")
    shapes = {key: {0: torch.export.Dim.DYNAMIC} for key in feeds}
    options: dict[str, Any] = dict(
        kwargs={"feeds": feeds}, dynamo=True, verbose=False, input_names=list(feeds), opset_version=opset
    )
    start, free = time.monotonic(), True
    with torch.no_grad():
        try:
            program = torch.onnx.export(plain, dynamic_shapes={"feeds": shapes}, **options)
        except Exception:
            free = False
            program = torch.onnx.export(plain, **options)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "inputs.npz", **inputs)
    np.savez(folder / "outputs.npz", *answers)
    facts = {
        "class": class_name,
        "free_batch": free,
        "seconds": time.monotonic() - start,
        "transformers": transformers.__version__,
    }
    (folder / "facts.json").write_text(json.dumps(facts))
    program.save(str(folder / "model.onnx"), external_data=False)


def _awaken(torch: Any, model: Any, feeds: dict[str, Any]) -> None:
    """Weights as large as those of trained models: the usual start (0.02) makes small nets answer next to nothing, and layer
    scales start at 1e-6, with which a block adds nothing. Batch statistics are those of the example."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, float(parameter.shape[0] / max(1, parameter.numel())) ** 0.5)
            elif name.endswith("bias") or float(parameter.abs().max()) < 0.01:
                parameter.normal_(0.0, 0.1)
        norms = [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
        for module in norms:
            module.momentum = 1.0
            module.train()
            if float(module.weight.abs().max()) < 0.5:  # started as if it were a matrix
                module.weight.fill_(1.0)
        if norms:
            model(**feeds)
        for module in norms:
            module.eval()


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference relative to the largest finite value; inf for another shape, or NaN elsewhere."""
    if ours.shape != theirs.shape:
        return float("inf")
    if theirs.dtype.kind not in "f":
        return 0.0 if np.array_equal(ours, theirs) else float("inf")
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    gap = np.where(same, 0.0, np.abs(a - b))
    if not np.isfinite(gap).all():
        return float("inf")
    scale = float(np.abs(b[np.isfinite(b)]).max(initial=0.0))
    return float(gap.max(initial=0.0)) / (scale or 1.0)


def compare(folder: Path) -> dict[str, Any]:
    """One exported model, here and in onnxruntime."""
    import onnxruntime

    from headrace.runtime.model import load

    row: dict[str, Any] = json.loads((folder / "facts.json").read_text())
    path = folder / "model.onnx"
    with np.load(folder / "inputs.npz") as arrays:
        feeds = dict(arrays)
    with np.load(folder / "outputs.npz") as arrays:
        torch_answers = list(arrays.values())
    model = load(path)
    row["nodes"] = sum(1 for _ in model.graph.block.walk())
    feeds = {spec.name: feeds[spec.name] for spec in model.inputs}
    ours = list(model.run(feeds).values())
    row["torch"] = max(map(_difference, ours, torch_answers))
    if row["free_batch"]:  # one row more than the example for the comparison with onnxruntime
        feeds = {name: np.concatenate([array, array[:1]]) for name, array in feeds.items()}
        ours = list(model.run(feeds).values())
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        theirs = session.run(None, feeds)
    except Exception as error:
        row["onnxruntime"] = None
        row["note"] = f"onnxruntime does not run it: {str(error).splitlines()[0][:90]}"
        return row
    row["onnxruntime"] = max(map(_difference, ours, theirs))
    return row


def rows(out: Path, names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in names:
        folder = out / name
        if (folder / "model.onnx").is_file():
            try:
                yield name, compare(folder)
            except Exception as error:
                yield name, {"class": MODELS[name][0], "error": str(error).splitlines()[0][:200]}
        elif (folder / "error.txt").is_file():
            yield name, {"class": MODELS[name][0], "export": (folder / "error.txt").read_text().splitlines()[-1][:120]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["export", "compare"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="regular expression over names")
    parser.add_argument("--opset", type=int, default=None)
    options = parser.parse_args()
    names = [name for name in MODELS if re.search(options.only, name)]
    if options.what == "export":
        return _export_all(options.out, names, options.opset)
    bad = 0
    print("| architecture | class | nodes | batch | to onnxruntime | to torch |\n|---|---|--:|---|--:|--:|")
    for name, row in rows(options.out, names):
        reason = row.get("error") or row.get("export") or row.get("note")
        if "torch" in row:
            peer = row["onnxruntime"]
            shown = reason if peer is None else f"{peer:.1e}"
            bad += (row["torch"] if peer is None else peer) > BOUND
            print(
                f"| {name} | {row['class']} | {row['nodes']} | {'free' if row['free_batch'] else 'fixed'} | {shown} | {row['torch']:.1e} |"
            )
        else:
            bad += "error" in row
            print(
                f"| {name} | {row['class']} | | | {'headrace: ' if 'error' in row else 'torch does not export it: '}{reason} | |"
            )
        sys.stdout.flush()
    return 1 if bad else 0


def _export_all(out: Path, names: list[str], opset: int | None) -> int:
    for name in names:
        folder = out / name
        if (folder / "model.onnx").is_file():
            continue
        try:
            export(name, folder, opset)
            print(name, "exported", flush=True)
        except Exception as error:
            folder.mkdir(parents=True, exist_ok=True)
            reason = next(
                (line for line in str(error).splitlines() if line.startswith("<class")),
                f"{type(error).__name__}: {error}",
            )
            (folder / "error.txt").write_text(traceback.format_exc() + "\n" + reason.splitlines()[0])
            print(name, "failed:", reason, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
