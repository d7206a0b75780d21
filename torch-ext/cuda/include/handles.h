// libtorch's CUDA headers name the handles of cuBLAS, cuSPARSE and cuSOLVER, whose packages take a gigabyte. These
// declarations are all that ProcessGroupNCCL.hpp needs of them; nothing here is called.
#pragma once

typedef struct cublasContext* cublasHandle_t;
typedef struct cublasLtContext* cublasLtHandle_t;
typedef struct cusparseContext* cusparseHandle_t;
typedef struct cusolverDnContext* cusolverDnHandle_t;

enum cublasStatus_t : int;
enum cusparseStatus_t : int;
enum cusolverStatus_t : int;
