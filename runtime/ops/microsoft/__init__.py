"""onnxruntime's operator set (com.microsoft), as far as files in the wild carry it: each operator is spelled in others."""
